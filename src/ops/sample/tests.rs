use super::*;

#[test]
fn a_guidance_worked_by_hand() {
    let mut logits = [1.0, 2.0, 3.0, -1.0];
    guide(
        GuideShape {
            rows: 1,
            width: 2,
            scale: 3.0,
        },
        &mut logits,
    )
    .unwrap();
    assert_eq!(logits, [-3.0, 8.0, 3.0, -1.0]);
}

#[test]
fn a_draw_worked_by_hand() {
    let s = DrawShape { rows: 2, width: 2 };
    let (ln2, mut codes, mut p) = (core::f32::consts::LN_2, [9; 2], [0.0; 2]);
    // Probabilities 1/3 and 2/3 with noise 1 and 3, then with noise 1 and 1.
    let mut logits = [0.0, ln2, 0.0, ln2];
    draw(
        s,
        &mut logits,
        &Draw::Given(&[1.0, 3.0, 1.0, 1.0]),
        &mut codes,
        &mut p,
    )
    .unwrap();
    assert_eq!(codes, [0, 1]);
    assert!((p[0] - 1.0 / 3.0).abs() < 1e-6 && (p[1] - 2.0 / 3.0).abs() < 1e-6);
}

#[test]
fn the_first_of_equals_wins() {
    let s = DrawShape {
        rows: 1,
        width: 200,
    };
    let (mut codes, mut p) = ([9], [0.0]);
    draw(
        s,
        &mut [0.5; 200],
        &Draw::Given(&[1.0; 200]),
        &mut codes,
        &mut p,
    )
    .unwrap();
    assert_eq!(codes, [0]);
}

#[test]
fn a_keyed_draw_is_the_race_with_the_keys_noise() {
    for width in [1, 3, 4, 63, 64, 65, 300] {
        let mut row: alloc::vec::Vec<f32> = (0..width).map(|i| libm::sinf(i as f32)).collect();
        assert!(softmax_row(&mut row));
        for seed in 0..20 {
            let key = [seed, 1, 2, 3];
            #[expect(clippy::cast_possible_truncation, reason = "small")]
            let noise = |i: usize| rng::exponential(keyed_bits(&key, (i / 4) as u32)[i % 4]);
            assert_eq!(draw_keyed(&key, &row), rng::race(&row, noise));
        }
    }
}

#[test]
fn a_softmax_sums_to_one_and_refuses_what_is_not_finite() {
    let mut row: [f32; 77] = core::array::from_fn(|i| i as f32 * 0.3);
    assert!(softmax_row(&mut row));
    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    assert!(!softmax_row(&mut [0.0, f32::NAN]));
    assert!(!softmax_row(&mut [0.0, f32::INFINITY]));
    assert!(!softmax_row(&mut [f32::NEG_INFINITY; 2]));
    let mut row = [0.0, f32::NEG_INFINITY];
    assert!(softmax_row(&mut row));
    assert_eq!(row, [1.0, 0.0]);
}

#[test]
fn filters_keep_the_largest() {
    let keep = |f: Filter| {
        let mut logits = [0.0, 3.0, 1.0, 2.0];
        filter(f, &mut logits, &mut [0; 4]).unwrap();
        logits.map(f32::is_finite)
    };
    let all = Filter {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
    };
    assert_eq!(keep(all), [true; 4]);
    assert_eq!(keep(Filter { top_k: 2, ..all }), [false, true, false, true]);
    assert_eq!(
        keep(Filter { top_p: 0.0, ..all }),
        [false, true, false, false]
    );
    assert_eq!(
        keep(Filter { top_p: 0.7, ..all }),
        [false, true, false, true]
    );
}

#[test]
fn schedules_end_with_one_place_masked() {
    for schedule in [
        Schedule::Cosine,
        Schedule::Linear,
        Schedule::Power(2.0),
        Schedule::Sigmoid,
    ] {
        assert_eq!(schedule.masked(64, 5, 7, 8), 1);
        assert!(schedule.ratio(0, 8) > schedule.ratio(4, 8));
    }
    assert_eq!(Schedule::Cosine.masked(64, 64, 3, 8), 45);
    assert!((cumulative_temperature(2.0, 1, 4) - 0.75).abs() < 1e-6);
    assert!((Schedule::Linear.ratio(u32::MAX, u32::MAX) - 1e-6).abs() < 1e-9);
}

#[test]
fn remasking_takes_the_least_sure_and_never_a_known_place() {
    let r = Remask {
        p: &[0.9, 0.1, -1.0, 0.5],
        uniform: &[0.5; 4],
        masked: 2,
        temperature: 0.0,
    };
    let mut codes = [1, 2, 3, 4];
    remask(&r, &mut [0.0; 4], &mut [0.0; 4], &mut codes).unwrap();
    assert_eq!(codes, [1, UNKNOWN, 3, UNKNOWN]);
    assert!(
        remask(
            &Remask { masked: 4, ..r },
            &mut [0.0; 4],
            &mut [0.0; 4],
            &mut codes
        )
        .is_err()
    );
}
