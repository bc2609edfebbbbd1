//! What is asked for: the six GenEval tasks over the drawn world, their texts, their records and the held-out split.

use crate::world::{COLOURS, KINDS, Rng};
use serde::{Deserialize, Serialize};

/// GenEval's task tags, in its order.
pub const TAGS: [&str; 6] = [
    "single_object",
    "two_object",
    "counting",
    "colors",
    "position",
    "color_attr",
];
/// GenEval's relations.
pub const RELATIONS: [&str; 4] = ["left of", "right of", "above", "below"];
/// Numbers in words.
pub const NUMBERS: [&str; 5] = ["zero", "one", "two", "three", "four"];
/// Share of each task among drawn training scenes.
const SHARES: [f32; 6] = [0.08, 0.18, 0.20, 0.12, 0.17, 0.25];

/// One GenEval requirement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Include {
    pub class: String,
    pub count: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub color: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<(String, usize)>,
}

/// One line of a GenEval prompt file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub tag: String,
    pub include: Vec<Include>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<Include>,
    pub prompt: String,
}

/// A request in numbers instead of words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Index into [`TAGS`].
    pub task: usize,
    pub kinds: [usize; 2],
    pub colours: [usize; 2],
    /// Number of objects for counting, index into [`RELATIONS`] for position.
    pub extra: usize,
}

pub fn with_article(words: &str) -> String {
    let article = if words.starts_with(['a', 'e', 'i', 'o', 'u']) {
        "an"
    } else {
        "a"
    };
    format!("{article} {words}")
}

/// GenEval's plural: "es" after s, else "s".
pub fn plural(kind: &str) -> String {
    format!("{kind}{}", if kind.ends_with('s') { "es" } else { "s" })
}

impl Ask {
    /// A request with GenEval's constraints (two kinds differ, two colours differ).
    pub fn random(rng: &mut Rng) -> Self {
        let mut u = rng.unit();
        let mut task = 0;
        while task < 5 && u >= SHARES[task] {
            u -= SHARES[task];
            task += 1;
        }
        Self::of_task(task, rng)
    }

    pub fn of_task(task: usize, rng: &mut Rng) -> Self {
        let kind = rng.below(KINDS.len());
        let colour = rng.below(COLOURS.len());
        let extra = match task {
            2 => 2 + rng.below(3),
            4 => rng.below(RELATIONS.len()),
            _ => 0,
        };
        Self {
            task,
            kinds: [kind, (kind + 1 + rng.below(KINDS.len() - 1)) % KINDS.len()],
            colours: [
                colour,
                (colour + 1 + rng.below(COLOURS.len() - 1)) % COLOURS.len(),
            ],
            extra,
        }
    }

    /// A request whose text is not held out.
    pub fn random_for_training(rng: &mut Rng) -> Self {
        loop {
            let ask = Self::random(rng);
            if !ask.is_held_out() {
                return ask;
            }
        }
    }

    /// Every distinct request of a task.
    pub fn all(task: usize) -> Vec<Self> {
        let mut out = Vec::new();
        let pairs = [1, 4, 5].contains(&task);
        for a in 0..KINDS.len() {
            for b in 0..if pairs { KINDS.len() } else { 1 } {
                for c in 0..if [3, 5].contains(&task) {
                    COLOURS.len()
                } else {
                    1
                } {
                    for d in 0..if task == 5 { COLOURS.len() } else { 1 } {
                        let extras = [0..1, 0..1, 2..5, 0..1, 0..4, 0..1][task].clone();
                        if (pairs && a == b) || (task == 5 && c == d) {
                            continue;
                        }
                        out.extend(extras.map(|extra| Self {
                            task,
                            kinds: [a, b],
                            colours: [c, d],
                            extra,
                        }));
                    }
                }
            }
        }
        out
    }

    fn noun(&self, i: usize) -> String {
        let kind = KINDS[self.kinds[i]];
        with_article(&if [3, 5].contains(&self.task) {
            format!("{} {kind}", COLOURS[self.colours[i]])
        } else {
            kind.into()
        })
    }

    pub fn text(&self) -> String {
        let what = match self.task {
            0 | 3 => self.noun(0),
            2 => format!("{} {}", NUMBERS[self.extra], plural(KINDS[self.kinds[0]])),
            4 => format!(
                "{} {} {}",
                self.noun(0),
                RELATIONS[self.extra],
                self.noun(1)
            ),
            _ => format!("{} and {}", self.noun(0), self.noun(1)),
        };
        format!("a photo of {what}")
    }

    /// Whether the text belongs to the evaluation half of the split, by a hash of its bytes.
    pub fn is_held_out(&self) -> bool {
        // A share of each task as (part, of); single objects are too few to keep any back.
        let (part, of) = [(0, 1), (1, 3), (1, 3), (1, 4), (1, 4), (1, 8)][self.task];
        let hash = self.text().bytes().fold(0xCBF2_9CE4_8422_2325u64, |h, b| {
            (h ^ u64::from(b)).wrapping_mul(0x100_0000_01B3)
        });
        // FNV's low bits are weak on short texts; one more mixing round spreads them.
        Rng::new(hash).bits() % of < part
    }

    pub fn record(&self) -> Record {
        let include = |i: usize, count| Include {
            class: KINDS[self.kinds[i]].into(),
            count,
            color: [3, 5]
                .contains(&self.task)
                .then(|| COLOURS[self.colours[i]].into()),
            position: None,
        };
        let mut exclude = Vec::new();
        let include = match self.task {
            0 | 3 => vec![include(0, 1)],
            2 => {
                exclude.push(include(0, self.extra + 1));
                vec![include(0, self.extra)]
            }
            4 => {
                let subject = Include {
                    position: Some((RELATIONS[self.extra].into(), 0)),
                    ..include(0, 1)
                };
                vec![include(1, 1), subject]
            }
            _ => vec![include(0, 1), include(1, 1)],
        };
        Record {
            tag: TAGS[self.task].into(),
            include,
            exclude,
            prompt: self.text(),
        }
    }

    /// Reads a text of the world back; `None` when it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.strip_prefix("a photo of ")?.split(' ').collect();
        let kind = |w: &str| KINDS.iter().position(|k| *k == w);
        let colour = |w: &str| COLOURS.iter().position(|c| *c == w);
        let (mut kinds, mut colours) = (Vec::new(), Vec::new());
        for w in &words {
            kinds.extend(KINDS.iter().position(|k| k == w || plural(k) == *w));
            colours.extend(colour(w));
        }
        let number = NUMBERS.iter().position(|n| *n == words[0]);
        let relation = RELATIONS
            .iter()
            .position(|r| text.contains(&format!(" {r} ")));
        let (task, extra) = match (kinds.len(), colours.len(), number, relation) {
            (1, 0, Some(n), None) => (2, n),
            (1, 0, None, None) => (0, 0),
            (1, 1, None, None) => (3, 0),
            (2, 0, None, None) => (1, 0),
            (2, 0, None, Some(r)) => (4, r),
            (2, 2, None, None) => (5, 0),
            _ => return None,
        };
        let get = |v: &[usize], i: usize| v.get(i).copied().unwrap_or_default();
        let ask = Self {
            task,
            kinds: [get(&kinds, 0), get(&kinds, 1)],
            colours: [get(&colours, 0), get(&colours, 1)],
            extra,
        };
        debug_assert!(words.iter().filter(|w| kind(w).is_some()).count() <= 2);
        (ask.text() == text).then_some(ask)
    }

    /// A request of the same task that differs in one thing, as a hard question about a picture made for this one.
    pub fn near_miss(&self, rng: &mut Rng) -> Self {
        loop {
            let mut ask = *self;
            let other = |now: usize, n: usize, rng: &mut Rng| (now + 1 + rng.below(n - 1)) % n;
            let which = if [1, 4, 5].contains(&self.task) {
                rng.below(2)
            } else {
                0
            };
            match (self.task, rng.unit()) {
                (2, u) if u < 0.65 => ask.extra = 2 + (self.extra - 2 + 1 + rng.below(2)) % 3,
                (4, u) if u < 0.45 => ask.extra = other(self.extra, 4, rng),
                (4, u) if u < 0.60 => ask.kinds.swap(0, 1),
                (5, u) if u < 0.25 => ask.colours.swap(0, 1),
                (3 | 5, u) if u < 0.65 => {
                    ask.colours[which] = other(self.colours[which], COLOURS.len(), rng)
                }
                _ => ask.kinds[which] = other(self.kinds[which], KINDS.len(), rng),
            }
            let pair = [1, 4, 5].contains(&ask.task);
            let twin = pair && ask.kinds[0] == ask.kinds[1];
            let one_colour = ask.task == 5 && ask.colours[0] == ask.colours[1];
            if !twin && !one_colour && !ask.is_held_out() {
                return ask;
            }
        }
    }
}

/// Words of every prompt, in a fixed order.
pub fn words() -> Vec<String> {
    let fixed = [
        "a", "an", "photo", "of", "and", "two", "three", "four", "left", "right", "above", "below",
    ];
    let mut out: Vec<String> = fixed.iter().map(ToString::to_string).collect();
    out.extend(KINDS.iter().map(ToString::to_string));
    out.extend(KINDS.iter().map(|k| plural(k)));
    out.extend(COLOURS.iter().map(ToString::to_string));
    out
}
