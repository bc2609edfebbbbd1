//! GenEval's rules on cases worked by hand.

use support::rules::*;

fn request(line: &str) -> Request {
    serde_json::from_str(line).unwrap()
}

fn at(class: &'static str, x: f32, y: f32, score: f32) -> Detection<'static> {
    Detection {
        class,
        color: "red",
        bbox: [x - 5.0, y - 5.0, x + 5.0, y + 5.0],
        score,
    }
}

#[test]
fn a_score_at_the_threshold_does_not_count() {
    let one =
        request(r#"{"tag":"single_object","include":[{"class":"car","count":1}],"prompt":""}"#);
    let rules = Rules::default();
    assert_eq!(
        rules.decide(&one, &[at("car", 9.0, 9.0, 0.3)]),
        Err("expected car>=1, found 0".into())
    );
    assert_eq!(rules.decide(&one, &[at("car", 9.0, 9.0, 0.31)]), Ok(()));
}

#[test]
fn counting_is_exact_and_has_its_own_threshold() {
    let two = request(
        r#"{"tag":"counting","include":[{"class":"car","count":2}],"exclude":[{"class":"car","count":3}],"prompt":""}"#,
    );
    let rules = Rules::default();
    let cars = |n: usize| vec![at("car", 9.0, 9.0, 0.95); n];
    assert!(rules.decide(&two, &cars(1)).is_err());
    assert_eq!(rules.decide(&two, &cars(2)), Ok(()));
    assert_eq!(
        rules.decide(&two, &cars(3)),
        Err("expected car<3, found 3".into())
    );
    let mut weak = cars(2);
    weak.push(at("car", 9.0, 9.0, 0.9));
    assert_eq!(rules.decide(&two, &weak), Ok(()));
}

#[test]
fn at_most_sixteen_objects_of_a_class_are_kept() {
    let many = request(r#"{"tag":"counting","include":[{"class":"car","count":17}],"prompt":""}"#);
    let cars = vec![at("car", 9.0, 9.0, 0.95); 17];
    assert_eq!(
        Rules::default().decide(&many, &cars),
        Err("expected car>=17, found 16".into())
    );
}

#[test]
fn only_the_best_objects_show_their_colour() {
    let red = request(
        r#"{"tag":"colors","include":[{"class":"car","count":1,"color":"red"}],"prompt":""}"#,
    );
    let blue = Detection {
        color: "blue",
        ..at("car", 9.0, 9.0, 0.9)
    };
    let rules = Rules::default();
    assert_eq!(rules.decide(&red, &[at("car", 9.0, 9.0, 0.8)]), Ok(()));
    let reason = rules
        .decide(&red, &[at("car", 9.0, 9.0, 0.8), blue])
        .unwrap_err();
    assert_eq!(reason, "expected red car>=1, found 0 red; and 1 blue");
}

#[test]
fn a_relation_needs_more_than_half_of_the_offset() {
    let rules = Rules {
        position_threshold: 0.0,
        ..Rules::default()
    };
    let boxed = |x: f32, y: f32| at("x", x, y, 1.0).bbox;
    assert_eq!(
        rules.relations(&boxed(0.0, 0.0), &boxed(10.0, 0.0)),
        ["left of"]
    );
    assert_eq!(
        rules.relations(&boxed(10.0, 10.0), &boxed(0.0, 0.0)),
        ["right of", "below"]
    );
    // 3-4-5: 0.6 and 0.8 both exceed one half. A share of exactly one half does not.
    assert_eq!(
        rules.relations(&boxed(3.0, -4.0), &boxed(0.0, 0.0)),
        ["right of", "above"]
    );
    let half = Rules {
        position_threshold: 0.25,
        ..rules
    };
    // Offset 10, sizes 10 + 10: revised offset 5, share exactly 0.5.
    assert!(
        half.relations(&boxed(10.0, 0.0), &boxed(0.0, 0.0))
            .is_empty()
    );
    assert!(
        rules
            .relations(&boxed(1.0, 1.0), &boxed(1.0, 1.0))
            .is_empty()
    );
}

#[test]
fn a_position_needs_its_target() {
    let left = request(
        r#"{"tag":"position","include":[{"class":"cup","count":1},
           {"class":"car","count":1,"position":["left of",0]}],"prompt":""}"#,
    );
    let rules = Rules::default();
    let (cup, car) = (at("cup", 50.0, 20.0, 0.9), at("car", 10.0, 20.0, 0.9));
    assert_eq!(rules.decide(&left, &[cup, car]), Ok(()));
    let swapped = [at("cup", 10.0, 20.0, 0.9), at("car", 50.0, 20.0, 0.9)];
    assert_eq!(
        rules.decide(&left, &swapped),
        Err("expected car left of target, found right of target".into())
    );
    assert_eq!(
        rules.decide(&left, &[car]),
        Err("expected cup>=1, found 0\nno target for car to be left of".into())
    );
}

#[test]
fn colours_are_counted_in_their_order() {
    let two = request(
        r#"{"tag":"colors","include":[{"class":"car","count":3,"color":"red"}],"prompt":""}"#,
    );
    let of = |color: &'static str| Detection {
        color,
        ..at("car", 9.0, 9.0, 0.9)
    };
    let seen = [of("white"), of("red"), of("blue")];
    assert_eq!(
        Rules::default().decide(&two, &seen),
        Err("expected red car>=3, found 1 red; and 1 red, 1 blue, 1 white".into())
    );
    let seen = [of("blue"), of("teal"), of("blue")];
    assert_eq!(
        Rules::default().decide(&two, &seen),
        Err("expected red car>=3, found 0 red; and 2 blue, 1 teal".into())
    );
}

#[test]
fn a_thing_that_is_asked_for_may_come_more_often() {
    let one =
        request(r#"{"tag":"single_object","include":[{"class":"car","count":1}],"prompt":""}"#);
    let two = [at("car", 9.0, 9.0, 0.9), at("car", 30.0, 9.0, 0.8)];
    assert_eq!(Rules::default().decide(&one, &two), Ok(()));
    let both = request(
        r#"{"tag":"two_object","include":[{"class":"car","count":1},{"class":"cup","count":1}],"prompt":""}"#,
    );
    assert_eq!(
        Rules::default().decide(&both, &two),
        Err("expected cup>=1, found 0".into())
    );
}

#[test]
fn overlapping_boxes_are_dropped_only_if_asked_for() {
    let two = request(r#"{"tag":"two_object","include":[{"class":"car","count":2}],"prompt":""}"#);
    let boxed = |x: f32, score: f32| Detection {
        bbox: [x, 0.0, x + 9.0, 9.0],
        ..at("car", 0.0, 0.0, score)
    };
    // Ten by ten pixels each, five columns in common: 50 of 150.
    let seen = [boxed(0.0, 0.9), boxed(5.0, 0.8)];
    let rules = |max_overlap| Rules {
        max_overlap,
        ..Rules::default()
    };
    assert_eq!(rules(1.0).decide(&two, &seen), Ok(()));
    assert_eq!(rules(0.34).decide(&two, &seen), Ok(()));
    let dropped = Err("expected car>=2, found 1".into());
    assert_eq!(rules(0.33).decide(&two, &seen), dropped);
    // The third overlaps the second, which is gone: it stays.
    let three = [boxed(0.0, 0.9), boxed(5.0, 0.8), boxed(10.0, 0.7)];
    assert_eq!(rules(0.33).decide(&two, &three), Ok(()));
    // The sixteen best come first, then the overlap.
    let mut many = vec![boxed(0.0, 0.9); 16];
    many.push(boxed(50.0, 0.8));
    assert_eq!(rules(0.5).decide(&two, &many), dropped);
}

#[test]
fn every_pair_of_objects_must_stand_as_asked() {
    let line = |n: u32| {
        request(&format!(
            r#"{{"tag":"position","include":[{{"class":"cup","count":{n}}},
            {{"class":"car","count":{n},"position":["left of",0]}}],"prompt":""}}"#
        ))
    };
    let seen = [
        at("cup", 50.0, 20.0, 0.9),
        at("cup", 5.0, 20.0, 0.8),
        at("car", 20.0, 20.0, 0.9),
        at("car", 30.0, 20.0, 0.8),
    ];
    // The best of each decide, the others do not matter unless they are asked for.
    assert_eq!(Rules::default().decide(&line(1), &seen), Ok(()));
    assert_eq!(
        Rules::default().decide(&line(2), &seen),
        Err("expected car left of target, found right of target".into())
    );
}

#[test]
fn a_wrong_colour_spoils_the_position() {
    let left = request(
        r#"{"tag":"position","include":[{"class":"cup","count":1,"color":"blue"},
           {"class":"car","count":1,"color":"blue","position":["left of",0]}],"prompt":""}"#,
    );
    let seen = [at("cup", 50.0, 20.0, 0.9), at("car", 10.0, 20.0, 0.9)];
    // The car's colour is wrong, so its place is not looked at; the cup is no target either.
    assert_eq!(
        Rules::default().decide(&left, &seen),
        Err("expected blue cup>=1, found 0 blue; and 1 red\nexpected blue car>=1, found 0 blue; and 1 red".into())
    );
}

#[test]
fn an_offset_within_a_tenth_of_the_sizes_is_no_relation() {
    let boxed = |x: f32, y: f32| at("x", x, y, 1.0).bbox;
    let rules = Rules::default();
    // Ten wide each: two pixels do not count. At four, two are left of four: exactly half is not enough.
    assert!(
        rules
            .relations(&boxed(2.0, 0.0), &boxed(0.0, 0.0))
            .is_empty()
    );
    assert!(
        rules
            .relations(&boxed(4.0, 0.0), &boxed(0.0, 0.0))
            .is_empty()
    );
    assert_eq!(
        rules.relations(&boxed(4.1, 0.0), &boxed(0.0, 0.0)),
        ["right of"]
    );
    // The share is of the whole offset: 12 of 14.
    assert_eq!(
        rules.relations(&boxed(0.0, 14.0), &boxed(0.0, 0.0)),
        ["below"]
    );
}
