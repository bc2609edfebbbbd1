//! Candidates hold pages of keys and values, and share them while they have codes in common.

use super::*;

/// Rows and columns of a grid whose codes take four pages.
const SIDE: usize = 10;

fn drawing() -> Drawing<Cpu> {
    Drawing::load_grid(Cpu::new(), "llamagen-c2i", Some(SIDE))
}

fn options() -> RasterOptions {
    super::options().with_tokens_per_step(SIDE)
}

fn forks(s: &mut Session<Cpu>, parent: CandidateId, seeds: &[u64]) -> Vec<CandidateId> {
    let mut ids = vec![CandidateId::default(); seeds.len()];
    s.fork(parent, seeds, &mut ids).unwrap();
    ids
}

#[test]
fn forks_of_forks_go_on_alone() {
    let drawing = drawing();
    for (kv, tokens, interval) in [
        (KvFormat::F32, 7, None),
        (KvFormat::Bf16, 33, None),
        (KvFormat::Q8, 10, Some(40)),
    ] {
        let mut o = options();
        (o.kv, o.hidden) = (kv, true);
        (o.tokens_per_step, o.guidance_interval) = (Some(tokens), interval);
        conformance::generator(&mut drawing.session(o), &Prompt::new("3")).unwrap();
        let mut s = drawing.session(o);
        let want = [3, 4, 5].map(|seed| alone(&mut s, "3", seed));
        let root = start(&mut s, "3", &[3])[0];
        // Each is forked where it has other pages in part, and goes on with its parent's seed or another.
        s.step(&[root]).unwrap();
        let first = forks(&mut s, root, &[3, 4]);
        s.step(&[root, first[0], first[1]]).unwrap();
        let second = forks(&mut s, first[0], &[3, 5]);
        s.step(&[second[0]]).unwrap();
        let third = forks(&mut s, second[0], &[3]);
        s.prune(&[second[0], root]).unwrap();
        assert_eq!(finish(&mut s, third[0]), want[0], "{kv:?}");
        let other = finish(&mut s, second[1]);
        assert_eq!(finish(&mut s, first[0]), want[0], "{kv:?}");
        // A code depends on the seed and its place: what differs is what came before.
        let [_, four, five] = &want;
        assert!(other != *five && finish(&mut s, first[1]) != *four);
        assert_eq!(other[..2 * tokens], want[0][..2 * tokens]);
        // All pages are back: as many candidates as ever.
        s.prune(&[third[0], second[1], first[0], first[1]]).unwrap();
        let ids = start(&mut s, "3", &[3; 8]);
        while s.taken(ids[0]).unwrap() < s.steps() {
            s.step(&ids).unwrap();
        }
        assert_eq!(settled(&s, ids[7]), want[0]);
    }
}

#[test]
fn forks_need_fewer_pages() {
    let drawing = drawing();
    let seeds: Vec<u64> = (0..7).collect();
    let run_with = |pages: Option<usize>, interval: Option<u32>| {
        let mut o = options();
        (o.pages, o.guidance_interval) = (pages, interval);
        let mut s = drawing.session(o);
        let mut ids = start(&mut s, "3", &[9]);
        for _ in 0..8 {
            s.step(&ids).unwrap();
        }
        ids.extend(forks(&mut s, ids[0], &seeds));
        s.step(&ids).unwrap();
        (s, ids)
    };
    let run = |pages| run_with(pages, None);
    let codes = |s: &Session<Cpu>, ids: &[CandidateId]| -> Vec<_> {
        ids.iter().map(|&id| settled(s, id)).collect()
    };
    let (mut s, ids) = run(None);
    s.step(&ids).unwrap();
    let want = codes(&s, &ids);
    assert!(want[1] != want[2]);
    // Of 79 rows that all have seen twice three pages are the first one's; its last is copied for each of the seven others,
    // and behind it each has one of its own: 6 + 14 + 16, where eight candidates could hold 64.
    let (mut s, ids) = run(Some(36));
    s.step(&ids).unwrap();
    assert_eq!(codes(&s, &ids), want);
    let (mut s, ids) = run(Some(35));
    let before = codes(&s, &ids);
    for _ in 0..2 {
        let full = s.step(&ids).unwrap_err().to_string();
        assert_eq!(full, "pages of a session: all 35 places are taken");
        assert_eq!(codes(&s, &ids), before);
        assert!(ids.iter().all(|&id| s.taken(id).unwrap() == 9));
    }
    // One less, and the others go on.
    s.prune(&ids[3..4]).unwrap();
    let others = [&ids[..3], &ids[4..]].concat();
    s.step(&others).unwrap();
    assert_eq!(codes(&s, &others), [&want[..3], &want[4..]].concat());
    // Where guidance has ended before, all hold the same two pages of its half to the end: 2 + 3 + 7 + 8.
    let (mut s, ids) = run_with(Some(20), Some(40));
    s.step(&ids).unwrap();
    let (mut s, ids) = run_with(Some(19), Some(40));
    assert!(matches!(s.step(&ids), Err(Error::Full { limit: 19, .. })));
}

#[test]
fn what_does_not_start_holds_no_page() {
    let drawing = drawing();
    let mut whole = drawing.session(options());
    let want = alone(&mut whole, "3", 1);
    let id = start(&mut whole, "3", &[1])[0];
    for _ in 0..9 {
        whole.step(&[id]).unwrap();
    }
    let mut state = vec![0; SIDE * SIDE];
    let partial = whole.save(id, &mut state).unwrap();
    // Room for one and a half.
    let mut s = drawing.session(options().with_pages(12));
    let first = start(&mut s, "3", &[2])[0];
    let drawn = finish(&mut s, first);
    let mut ids = [CandidateId::default(); 2];
    for _ in 0..3 {
        let e = s
            .resume(&Prompt::new("3"), &partial, &[1, 1], &mut ids)
            .unwrap_err();
        assert_eq!(e.to_string(), "pages of a session: all 12 places are taken");
    }
    assert_eq!(settled(&s, first), drawn);
    s.prune(&[first]).unwrap();
    // Two that were resumed share what they came with, but for the page they go on in.
    s.resume(&Prompt::new("3"), &partial, &[1, 1], &mut ids)
        .unwrap();
    assert_eq!(finish(&mut s, ids[0]), want);
    assert_eq!(finish(&mut s, ids[1]), want);
}

#[test]
fn too_few_pages_for_one_are_refused() {
    let drawing = drawing();
    let refused = |o: RasterOptions| {
        let e = drawing.session_of(drawing.reader(), o).unwrap_err();
        e.to_string()
    };
    let o = options();
    assert_eq!(
        refused(o.with_pages(7)),
        "session: \"pages\" is 7, allowed is 8 to 524288"
    );
    assert_eq!(
        refused(o.with_guidance_interval(31).with_pages(0)),
        "session: \"pages\" is 0, allowed is 5 to 327680"
    );
    assert_eq!(
        refused(o.with_guidance_scale(1.0).with_pages(3)),
        "session: \"pages\" is 3, allowed is 4 to 262144"
    );
    // More than can be used are not reserved.
    let want = alone(&mut drawing.session(o), "3", 1);
    let mut s = drawing.session(o.with_pages(usize::MAX));
    assert_eq!(alone(&mut s, "3", 1), want);
}
