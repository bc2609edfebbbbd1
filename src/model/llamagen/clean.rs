//! Captions as the text encoder of LlamaGen was trained on them.

use alloc::string::String;
use alloc::vec::Vec;

/// The released cleaning of captions, which is applied twice.
///
/// # Differences
/// The repair of wrongly decoded Unicode is left out. HTML is not parsed: a tag is whatever stands from a `<` before a
/// letter, `/`, `!` or `?` to the next `>`, and of the named entities only `amp lt gt quot apos nbsp` are resolved. A
/// domain of more than 256 characters is no link. Letters and white space are those of Rust's `char`, digits ASCII.
pub(super) fn clean(text: &str) -> String {
    once(&once(text))
}

/// A text being rewritten.
type Text = Vec<char>;
/// The end of what a rule matches at a place.
type End = Option<usize>;

fn once(text: &str) -> String {
    let text = String::from_utf8_lossy(&url_decoded(text))
        .trim()
        .to_lowercase();
    let mut t: Text = text.replace("<person>", "person").chars().collect();
    // Links, markup and names of people.
    sub(&mut t, "", |t, i| link(t, i, "http"));
    sub(&mut t, "", |t, i| link(t, i, "www"));
    if let Some(last) = t.iter().rposition(|&c| c == '>') {
        sub(&mut t, "", |t, i| if i < last { tag(t, i) } else { None });
    }
    entities(&mut t);
    sub(&mut t, "", |t, i| some(t, is(t, i, '@')?, word));
    t.retain(|&c| !is_cjk(c));
    // One sign of each kind.
    sub(&mut t, "-", |t, i| some(t, i, is_dash));
    sub(&mut t, "\"", |t, i| one(t, i, |c| "`´«»“”¨".contains(c)));
    sub(&mut t, "'", |t, i| one(t, i, |c| "‘’".contains(c)));
    sub(&mut t, "", |t, i| {
        after(t, i, "&quot").map(|j| is(t, j, ';').unwrap_or(j))
    });
    sub(&mut t, "", |t, i| after(t, i, "&amp"));
    // Numbers that say nothing, and names of files.
    sub(&mut t, " ", address);
    sub(&mut t, "", clock_at_the_end);
    sub(&mut t, " ", |t, i| after(t, i, "\\n"));
    sub(&mut t, "", |t, i| ends(t, digits(t, is(t, i, '#')?, 1, 3)?));
    sub(&mut t, "", |t, i| {
        ends(t, digits(t, is(t, i, '#')?, 5, usize::MAX)?)
    });
    sub(&mut t, "", |t, i| {
        ends(t, digits(t, begins(t, i)?, 6, usize::MAX)?)
    });
    sub(&mut t, "", file_name);
    // Punctuation.
    sub(&mut t, "\"", |t, i| {
        span(t, i, 2, usize::MAX, |c| "\"'".contains(c))
    });
    sub(&mut t, " ", |t, i| span(t, i, 2, usize::MAX, |c| c == '.'));
    sub(&mut t, " ", |t, i| {
        some(t, i, |c| "#®•©™&@·º½¾¿¡§~)(][}{|\\/*".contains(c))
    });
    sub(&mut t, " ", |t, i| {
        some(t, is(t, some(t, leads(t, i, space)?, space)?, '.')?, space)
    });
    if t.iter().filter(|&&c| "-_".contains(c)).count() > 3 {
        sub(&mut t, " ", |t, i| one(t, i, |c| "-_".contains(c)));
    }
    entities(&mut t);
    entities(&mut t);
    trim(&mut t);
    // Article numbers and the words of shops.
    sub(&mut t, "", |t, i| {
        ends(t, digits(t, letters(t, begins(t, i)?, 1, 3)?, 3, 15)?)
    });
    sub(&mut t, "", |t, i| {
        ends(t, mixed(t, begins(t, i)?, letter, number)?)
    });
    sub(&mut t, "", |t, i| {
        ends(t, mixed(t, begins(t, i)?, number, letter)?)
    });
    sub(&mut t, "", shipping);
    sub(&mut t, "", download);
    sub(&mut t, "", click);
    sub(&mut t, "", format);
    sub(&mut t, "", |t, i| {
        let number = some(t, after(t, begins(t, i)?, "page")?, space)?;
        ends(t, digits(t, number, 1, usize::MAX)?)
    });
    sub(&mut t, " ", scrambled);
    sub(&mut t, "", size);
    // Spaces around what is left.
    sub(&mut t, ": ", |t, i| {
        some(t, is(t, some(t, ends(t, i)?, space)?, ':')?, space)
    });
    spaced(&mut t);
    sub(&mut t, " ", |t, i| some(t, i, space));
    trim(&mut t);
    frame(&mut t);
    trim(&mut t);
    t.into_iter().collect()
}

/// Replaces whatever a rule matches, from the left.
fn sub(text: &mut Text, with: &str, rule: impl Fn(&[char], usize) -> End) {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match rule(text, at).filter(|&end| end > at) {
            Some(end) => {
                out.extend(with.chars());
                at = end;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    *text = out;
}

// Parts of rules. Each takes a place and gives the place behind what it matches.

fn one(t: &[char], i: usize, of: impl Fn(char) -> bool) -> End {
    span(t, i, 1, 1, of)
}

fn some(t: &[char], i: usize, of: impl Fn(char) -> bool) -> End {
    span(t, i, 1, usize::MAX, of)
}

/// As many characters of a kind as there are, up to `max`.
fn span(t: &[char], i: usize, min: usize, max: usize, of: impl Fn(char) -> bool) -> End {
    let rest = t.get(i..)?;
    let n = rest.iter().take(max).take_while(|&&c| of(c)).count();
    (n >= min).then_some(i + n)
}

/// The place itself, unless it lies inside a run of a kind: what all of a run does not match, its rest does not either.
fn leads(t: &[char], i: usize, of: impl Fn(char) -> bool) -> End {
    let before = i.checked_sub(1).and_then(|j| t.get(j));
    (!before.is_some_and(|&c| of(c))).then_some(i)
}

fn is(t: &[char], i: usize, c: char) -> End {
    (t.get(i) == Some(&c)).then_some(i + 1)
}

fn after(t: &[char], i: usize, text: &str) -> End {
    text.chars().try_fold(i, |i, c| is(t, i, c))
}

fn digits(t: &[char], i: usize, min: usize, max: usize) -> End {
    span(t, i, min, max, number)
}

fn letters(t: &[char], i: usize, min: usize, max: usize) -> End {
    span(t, i, min, max, letter)
}

fn word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn space(c: char) -> bool {
    c.is_whitespace()
}

fn number(c: char) -> bool {
    c.is_ascii_digit()
}

fn letter(c: char) -> bool {
    c.is_ascii_alphabetic()
}

/// Whether a word begins or ends here.
fn edge(t: &[char], i: usize) -> bool {
    let is_word = |i: Option<usize>| i.and_then(|i| t.get(i)).is_some_and(|&c| word(c));
    is_word(i.checked_sub(1)) != is_word(Some(i))
}

fn begins(t: &[char], i: usize) -> End {
    edge(t, i).then_some(i)
}

fn ends(t: &[char], i: usize) -> End {
    edge(t, i).then_some(i)
}

// Rules.

/// A scheme and its slashes, or a domain and its path; no address of mail.
fn link(t: &[char], i: usize, scheme: &str) -> End {
    const DOMAINS: [&str; 8] = ["com", "co", "ru", "net", "org", "edu", "gov", "it"];
    let start = begins(t, i)?;
    if let Some(colon) = after(t, start, scheme).and_then(|j| {
        let secure = if scheme == "http" {
            is(t, j, 's')
        } else {
            None
        };
        is(t, secure.unwrap_or(j), ':')
    }) {
        let slashes = span(t, colon, 1, 3, |c| c == '/');
        let end = slashes.or_else(|| one(t, colon, |c| c.is_ascii_alphanumeric() || c == '%'));
        if end.is_some() {
            return end;
        }
    }
    let host = |c: char| c.is_ascii_alphanumeric() || ".-".contains(c);
    let name = span(t, start, 2, 256, host)?;
    for dot in (start + 1..name).rev().filter(|&j| t[j] == '.') {
        let Some(domain) = DOMAINS.iter().find_map(|d| after(t, dot + 1, d)) else {
            continue;
        };
        let path = span(t, domain, 0, usize::MAX, |c| word(c) || "/-".contains(c))?;
        let no_mail = |j: &usize| t.get(*j) != Some(&'@');
        for end in (domain..=path).rev().filter(|&j| edge(t, j)) {
            let slash = is(t, end, '/').filter(no_mail);
            if let Some(end) = slash.or(Some(end).filter(no_mail)) {
                return Some(end);
            }
        }
    }
    None
}

fn tag(t: &[char], i: usize) -> End {
    let inside = is(t, i, '<')?;
    one(t, inside, |c| letter(c) || "/!?".contains(c))?;
    is(t, span(t, inside, 1, usize::MAX, |c| c != '>')?, '>')
}

fn is_cjk(c: char) -> bool {
    ('\u{31c0}'..='\u{9fff}').contains(&c)
}

fn is_dash(c: char) -> bool {
    let others = "-\u{58a}\u{5be}\u{1400}\u{1806}\u{2e17}\u{2e1a}\u{2e3a}\u{2e3b}\u{2e40}\u{301c}\u{3030}\u{30a0}\u{fe31}\u{fe32}\u{fe58}\u{fe63}\u{ff0d}";
    ('\u{2010}'..='\u{2015}').contains(&c) || others.contains(c)
}

fn address(t: &[char], i: usize) -> End {
    let first = digits(t, i, 1, 3)?;
    (0..3).try_fold(first, |i, _| digits(t, is(t, i, '.')?, 1, 3))
}

fn clock_at_the_end(t: &[char], i: usize) -> End {
    let hour = one(t, i, number)?;
    let end = some(t, digits(t, is(t, hour, ':')?, 2, 2)?, space)?;
    (end == t.len()).then_some(end)
}

const FORMATS: [&str; 9] = [
    "png", "jpg", "jpeg", "bmp", "webp", "eps", "pdf", "apk", "mp4",
];

/// Everything without a blank up to the last ending of a file.
fn file_name(t: &[char], i: usize) -> End {
    if i.checked_sub(1).is_some_and(|j| !space(t[j])) {
        return None;
    }
    let end = some(t, i, |c| !space(c))?;
    let mut dots = (i + 1..end).rev().filter(|&j| t[j] == '.');
    dots.find_map(|dot| FORMATS.iter().find_map(|f| after(t, dot + 1, f)))
}

/// Two kinds of characters in turn: one, the other, the one.
fn mixed(t: &[char], i: usize, a: fn(char) -> bool, b: fn(char) -> bool) -> End {
    some(t, some(t, some(t, i, a)?, b)?, a)
}

fn scrambled(t: &[char], i: usize) -> End {
    let start = span(t, begins(t, i)?, 0, usize::MAX, number)?;
    let end = some(t, mixed(t, start, letter, number)?, number)?;
    ends(t, span(t, end, 0, usize::MAX, |c| letter(c) || number(c))?)
}

fn shipping(t: &[char], i: usize) -> End {
    let i = after(t, i, "worldwide")
        .and_then(|j| some(t, j, space))
        .unwrap_or(i);
    let i = after(t, i, "free")
        .and_then(|j| some(t, j, space))
        .unwrap_or(i);
    after(t, i, "shipping")
}

fn download(t: &[char], i: usize) -> End {
    let i = after(t, i, "free")
        .and_then(|j| one(t, j, space))
        .unwrap_or(i);
    let end = after(t, i, "download")?;
    let free = one(t, end, space).and_then(|j| after(t, j, "free"));
    Some(free.unwrap_or(end))
}

fn click(t: &[char], i: usize) -> End {
    let verb = one(t, ends(t, after(t, begins(t, i)?, "click")?)?, space)?;
    let to = after(t, verb, "for").or_else(|| after(t, verb, "on"))?;
    some(t, one(t, to, space)?, word)
}

fn format(t: &[char], i: usize) -> End {
    let start = begins(t, i)?;
    let end = FORMATS.iter().find_map(|f| after(t, start, f))?;
    let image = one(t, end, space).and_then(|j| after(t, j, "image"));
    Some(image.map_or(end, |j| is(t, j, 's').unwrap_or(j)))
}

/// Two numbers and a cross between.
fn size(t: &[char], i: usize) -> End {
    let width = digits(t, begins(t, i)?, 1, usize::MAX)?;
    let width = span(t, is(t, width, '.').unwrap_or(width), 0, usize::MAX, number)?;
    let cross = one(t, width, |c| "xх×".contains(c))?;
    let height = digits(t, cross, 1, usize::MAX)?;
    let part = is(t, height, '.').and_then(|j| span(t, j, 0, usize::MAX, number));
    part.and_then(|j| ends(t, j)).or_else(|| ends(t, height))
}

/// A blank behind a comma, point or slash that a word follows, unless a digit stands before it.
fn spaced(text: &mut Text) {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let sign = one(text, at, |c| !number(c)).and_then(|j| one(text, j, |c| ",./".contains(c)));
        match sign.and_then(|end| ends(text, end)) {
            Some(end) => {
                out.extend_from_slice(&text[at..end]);
                out.push(' ');
                at = end;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    *text = out;
}

fn trim(text: &mut Text) {
    let end = text.iter().rposition(|&c| !space(c)).map_or(0, |i| i + 1);
    text.truncate(end);
    let blank = text.iter().take_while(|&&c| space(c)).count();
    text.drain(..blank);
}

/// Drops a pair of quotes around the text, a sign at either end, and a text that is one word behind a point.
fn frame(text: &mut Text) {
    let quote = |c: Option<&char>| c.is_some_and(|c| "\"'".contains(*c));
    if text.len() > 2 && quote(text.first()) && quote(text.last()) {
        text.pop();
        text.remove(0);
    }
    if text.first().is_some_and(|c| "'_,-:;".contains(*c)) {
        text.remove(0);
    }
    if text.last().is_some_and(|c| "'_,-:+".contains(*c)) {
        text.pop();
    }
    if text.len() > 1 && text[0] == '.' && !text.iter().any(|&c| space(c)) {
        text.clear();
    }
}

/// Resolves entities once.
fn entities(text: &mut Text) {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match entity(text, at) {
            Some((c, end)) => {
                out.push(c);
                at = end;
            }
            None => {
                out.push(text[at]);
                at += 1;
            }
        }
    }
    *text = out;
}

fn entity(t: &[char], i: usize) -> Option<(char, usize)> {
    const NAMED: [(&str, char); 6] = [
        ("&amp;", '&'),
        ("&lt;", '<'),
        ("&gt;", '>'),
        ("&quot;", '"'),
        ("&apos;", '\''),
        ("&nbsp;", '\u{a0}'),
    ];
    let start = is(t, i, '&')?;
    if let Some(found) = NAMED
        .iter()
        .find_map(|(name, c)| Some((*c, after(t, i, name)?)))
    {
        return Some(found);
    }
    let digit = is(t, start, '#')?;
    let hex = is(t, digit, 'x');
    let (from, radix) = hex.map_or((digit, 10), |j| (j, 16));
    let end = span(t, from, 1, 7, |c| c.is_digit(radix))?;
    let text: String = t[from..end].iter().collect();
    let c = char::from_u32(u32::from_str_radix(&text, radix).ok()?)?;
    Some((c, is(t, end, ';')?))
}

/// The bytes of a text whose blanks are plus signs and whose other signs may be a per cent sign and two digits.
fn url_decoded(text: &str) -> Vec<u8> {
    let digit = |b: Option<&u8>| b.and_then(|b| char::from(*b).to_digit(16));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let pair = digit(bytes.get(at + 1)).zip(digit(bytes.get(at + 2)));
        let (byte, len) = match (byte, pair) {
            (b'+', _) => (b' ', 1),
            (b'%', Some((high, low))) => (u8::try_from(high << 4 | low).unwrap_or(b'?'), 3),
            _ => (byte, 1),
        };
        out.push(byte);
        at += len;
    }
    out
}

#[cfg(test)]
mod tests;
