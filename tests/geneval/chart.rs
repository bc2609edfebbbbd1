use std::collections::BTreeMap;

use serde_json::json;
use support::chart::{Chart, Point, Series, factors, short, stacked, steps};
use support::comparison::{Alone, Row, Scaling, scaling_table, table};
use support::results::Lines;
use support::score::Estimate;

#[test]
fn numbers_of_axes_are_round_and_lie_within() {
    assert_eq!(factors(0.9, 31.0), [1.0, 2.0, 5.0, 10.0, 20.0]);
    assert_eq!(factors(0.04, 0.3), [0.05, 0.1, 0.2]);
    assert_eq!(steps(-3.0, 21.0), [0.0, 5.0, 10.0, 15.0, 20.0]);
    assert_eq!(
        steps(0.5, 0.8).first().copied().map(short),
        Some("0.5".into())
    );
    for (x, want) in [
        (20.0, "20"),
        (0.25, "0.25"),
        (-5.0, "-5"),
        (-0.0001, "0"),
        (0.05, "0.05"),
    ] {
        assert_eq!(short(x), want);
    }
}

fn at(x: f64, y: f64) -> Series {
    let (low, high) = (y - 1.0, y + 1.0);
    Series {
        label: "one".into(),
        points: vec![Point { x, y, low, high }],
    }
}

#[test]
fn points_stand_where_their_numbers_say() {
    let chart = Chart {
        title: "t".into(),
        x: "x".into(),
        y: "y".into(),
        marks: Vec::new(),
        series: vec![at(1.0, 0.0), at(10.0, 0.0), at(100.0, 9.0)],
    };
    let page = chart.draw(1000);
    // The middle of all dots of a series' colour that are no text: the marker is the largest block of it.
    let marker = |ink: [u8; 3]| {
        let is = |x: usize, y: usize| page.pixels[(y * page.width + x) * 3..][..3] == ink;
        let block = |x: usize, y: usize| (0..10).all(|i| (0..10).all(|j| is(x + i, y + j)));
        let spots = (0..page.height - 10).flat_map(|y| (0..page.width - 10).map(move |x| (x, y)));
        spots.into_iter().find(|&(x, y)| block(x, y)).unwrap()
    };
    let [a, b, c] = [[31, 119, 180], [214, 39, 40], [44, 160, 44]].map(marker);
    // Ten times is as far as ten times; what is higher stands higher.
    assert!(
        a.0 < b.0 && (c.0 - b.0).abs_diff(b.0 - a.0) <= 2,
        "{a:?} {b:?} {c:?}"
    );
    assert!(a.1 == b.1 && c.1 + 50 < a.1);
    let twice = stacked(&[chart.draw(1000), chart.draw(600)]);
    assert_eq!(
        (twice.width, twice.pixels.len()),
        (page.width, twice.width * twice.height * 3)
    );
    assert_eq!(&twice.pixels[..page.pixels.len()], &page.pixels);
    // Nothing to show is no reason to fail.
    let empty = Chart {
        series: Vec::new(),
        ..chart
    };
    assert!(empty.draw(400).pixels.iter().all(|&byte| byte > 30));
}

/// Pictures of four prompts of two tasks, right or wrong.
fn drawn(right: [bool; 4]) -> Lines {
    let line = |(i, right): (usize, &bool)| {
        let tag = ["single_object", "counting"][i % 2];
        let line = json!({
            "tag": tag, "prompt": i, "correct": right, "steps": 18, "decodes": 0, "questions": i,
        });
        ((i as u64, 0), line)
    };
    right
        .iter()
        .enumerate()
        .map(line)
        .collect::<BTreeMap<_, _>>()
}

#[test]
fn rows_tell_gains_over_the_first_and_multiples_of_it() {
    let first = drawn([true, false, false, false]);
    let second = drawn([true, true, true, false]);
    let mut rows = [("plain", &first), ("more", &second)]
        .map(|(label, lines)| Row::new(label, "", &first, lines).unwrap());
    assert_eq!((rows[1].work(), rows[1].time()), (None, None));
    let alone = |time, steps, each| Alone {
        time,
        spent: [steps, 0.0, 1.5],
        each: Some(each),
    };
    rows[0].alone = Some(alone(1.25, 18.0, [5.0, 10.0, 0.0]));
    // Twice as long on pictures of half the steps.
    rows[1].alone = Some(alone(2.0, 9.0, [22.0, 8.0, 0.0]));
    assert_eq!((rows[0].overall.mean, rows[1].overall.mean), (0.25, 0.75));
    assert_eq!((rows[0].gain.mean, rows[1].gain.mean), (0.0, 0.5));
    assert_eq!(rows[1].cost(&rows[0]), Some(4.04));
    assert_eq!(rows[0].time(), Some(1.25));
    let time = rows[1].time().unwrap();
    assert!((time - 2.0 * 404.0 / 206.0).abs() < 1e-9, "{time}");
    assert_eq!(rows[1].spent, [18.0, 0.0, 1.5]);
    let told = table(&rows);
    let cells: Vec<&str> = told.lines().nth(3).unwrap().split(" | ").collect();
    assert_eq!(cells[..4], ["| more", "1.000", "", ".500"], "{told}");
    assert!(
        cells[7].starts_with(".750 [") && cells[8].starts_with("+.500 ["),
        "{told}"
    );
    assert_eq!(
        cells[9..],
        [
            "18.0", "0.0", "1.5", "3.96", "0.08", "0.00", "4.04", "3.92 |"
        ],
        "{told}"
    );
    let columns = |line: &str| line.matches('|').count();
    assert!(
        told.lines()
            .all(|line| columns(line) == columns(told.lines().next().unwrap()))
    );
    // What nobody measured leaves its cells empty, pictures without a verdict are refused.
    rows[1].alone = None;
    assert!(
        table(&rows).ends_with("|  |  |  |  |  |\n"),
        "{}",
        table(&rows)
    );
    let mut open = drawn([true; 4]);
    open.get_mut(&(2, 0)).unwrap()["correct"] = json!(null);
    assert!(Row::new("open", "", &first, &open).is_err());
}

#[test]
fn curves_have_a_column_a_number() {
    let estimate = |mean| Estimate {
        mean,
        low: mean - 0.25,
        high: mean + 0.25,
    };
    let curve = Scaling {
        label: "best of N".into(),
        points: vec![(1, estimate(0.25)), (2, estimate(0.5))],
    };
    assert_eq!(
        scaling_table(&[curve]),
        "| candidates | 1 | 2 |\n|---|---|---|\n| best of N | .250 [.000, .500] | .500 [.250, .750] |\n"
    );
}
