use super::*;

const CLOSE: f32 = 1e-5;

fn close(a: &[f32], b: &[f32]) {
    assert!(
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < CLOSE),
        "{a:?} {b:?}"
    );
}

#[test]
fn a_layer_norm_worked_by_hand() {
    let s = NormShape {
        rows: 1,
        width: 2,
        eps: 0.0,
    };
    let mut y = [0.0; 2];
    layer_norm(s, &[1.0, 3.0], &[2.0, 2.0], &[0.5, 0.5], &mut y).unwrap();
    assert_eq!(y, [-1.5, 2.5]);
    rms_norm(s, &[1.0, 7.0], &[5.0, 10.0], &mut y).unwrap();
    close(&y, &[1.0, 14.0]);
}

#[test]
fn a_normed_row_has_mean_zero_and_variance_one() {
    let x: [f32; 37] = core::array::from_fn(|i| libm::sinf(i as f32) * 3.0 + 7.0);
    let mut y = [0.0; 37];
    layer_norm(
        NormShape {
            rows: 1,
            width: 37,
            eps: 0.0,
        },
        &x,
        &[1.0; 37],
        &[0.0; 37],
        &mut y,
    )
    .unwrap();
    assert!(y.iter().sum::<f32>().abs() < 1e-4);
    assert!((y.iter().map(|v| v * v).sum::<f32>() / 37.0 - 1.0).abs() < 1e-4);
}

#[test]
fn head_norm_leaves_the_rest_of_a_row_alone() {
    let s = HeadNormShape {
        rows: 1,
        heads: 2,
        head_dim: 2,
        stride: 6,
        offset: 1,
        eps: 0.0,
    };
    let mut x = [9.0, 1.0, 3.0, 4.0, 2.0, 9.0];
    head_norm(s, &mut x, &[1.0, 1.0], &[0.0, 0.0]).unwrap();
    assert_eq!(x, [9.0, -1.0, 1.0, 1.0, -1.0, 9.0]);
}

#[test]
fn a_group_norm_worked_by_hand() {
    let s = GroupNormShape {
        images: 1,
        pixels: 2,
        channels: 4,
        groups: 2,
        eps: 0.0,
        swish: false,
    };
    // Group 0 holds 1, 3, 1, 3; group 1 holds 0, 0, 4, 4.
    let mut y = [0.0; 8];
    let x = [1.0, 3.0, 0.0, 0.0, 1.0, 3.0, 4.0, 4.0];
    group_norm(s, &x, &[1.0, 1.0, 1.0, 2.0], &[0.0, 0.0, 0.0, 1.0], &mut y).unwrap();
    assert_eq!(y, [-1.0, 1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 3.0]);
}

#[test]
fn groups_wider_than_a_slab_are_normed_as_a_whole() {
    let s = GroupNormShape {
        images: 1,
        pixels: 70,
        channels: 200,
        groups: 2,
        eps: 0.0,
        swish: false,
    };
    let x: alloc::vec::Vec<f32> = (0..70 * 200)
        .map(|i| libm::sinf(i as f32 * 0.7) + (i % 200) as f32)
        .collect();
    let mut y = alloc::vec![0.0; x.len()];
    group_norm(s, &x, &[1.0; 200], &[0.0; 200], &mut y).unwrap();
    let half = || y.chunks(200).flat_map(|pixel| &pixel[100..]);
    assert!((half().sum::<f32>() / 7000.0).abs() < 1e-4);
    assert!((half().map(|v| v * v).sum::<f32>() / 7000.0 - 1.0).abs() < 1e-3);
}

#[test]
fn activations_gates_and_sums_worked_by_hand() {
    let mut x = [-1.0, 0.0, 1.0];
    activate(Activation::Relu, 2, &mut x).unwrap();
    assert_eq!(x, [0.0, 0.0, 1.0]);
    let mut y = [0.0; 2];
    gate(GATE, &[0.0, 1.0, 5.0, 2.0], &mut y).unwrap();
    close(&y, &[0.0, 1.462_117_2]);
    add(2, &[1.0, 2.0], &mut y).unwrap();
    close(&y, &[1.0, 3.462_117_2]);
}

#[test]
fn wrong_sizes_are_errors() {
    let s = NormShape {
        rows: 1,
        width: 2,
        eps: 0.0,
    };
    assert!(layer_norm(s, &[0.0; 1], &[0.0; 2], &[0.0; 2], &mut [0.0; 2]).is_err());
    assert!(rms_norm(NormShape { width: 0, ..s }, &[], &[], &mut []).is_err());
    let g = GroupNormShape {
        images: 1,
        pixels: 2,
        channels: 4,
        groups: 3,
        eps: 0.0,
        swish: false,
    };
    assert!(g.check(8, 4, 4, 8).is_err());
    assert!(
        GroupNormShape {
            groups: 2,
            pixels: usize::MAX,
            ..g
        }
        .check(8, 4, 4, 8)
        .is_err()
    );
    assert!(activate(Activation::Silu, 2, &mut [0.0]).is_err());
    assert!(add(2, &[0.0; 2], &mut [0.0]).is_err());
    assert!(gate(GATE, &[0.0; 3], &mut [0.0; 2]).is_err());
}

const GATE: GateShape = GateShape {
    rows: 1,
    width: 2,
    activation: Activation::Silu,
};

#[test]
fn a_gate_goes_through_its_activation() {
    let s = GateShape {
        activation: Activation::Relu,
        ..GATE
    };
    let mut y = [9.0; 2];
    gate(s, &[-1.0, 2.0, 5.0, 7.0], &mut y).unwrap();
    assert_eq!(y, [0.0, 14.0]);
}
