//! Pickles of random instructions, and views of a storage.

use maquette::model::files::torch::TorchSource;
use maquette::model::weights::WeightSource;
use proptest::prelude::*;

use super::{dict, read};
use crate::ran;

/// An instruction with arguments as they come.
fn instruction() -> impl Strategy<Value = Vec<u8>> {
    let codes = b"\x80\x95(012N\x88\x89KMJ\x8aG\x8cX\x8d]})ltd\x85\x86\x87aesuqr\x94hjc\x93QRb";
    let globals = [
        &b"ccollections\nOrderedDict\n"[..],
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch._tensor\n_rebuild_from_type_v2\n",
        b"ctorch\nSize\n",
        b"ctorch\nTensor\n",
        b"ctorch\nFloatStorage\n",
        b"X\x07\0\0\0storage",
        b"X\x01\0\0\x000",
        b"X\x05\0\0\0model",
    ];
    prop_oneof![
        (0..codes.len()).prop_map(move |i| vec![codes[i]]),
        (0..globals.len()).prop_map(move |i| globals[i].to_vec()),
        (any::<u8>()).prop_map(|n| vec![b'K', n]),
        (0..4_u8).prop_map(|n| vec![b'q', n]),
        (0..4_u8).prop_map(|n| vec![b'h', n]),
        any::<i64>().prop_map(|n| [&[0x8a, 8][..], &n.to_le_bytes()].concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn prop_any_instructions_are_an_error_or_a_table(codes in prop::collection::vec(instruction(), 0..60)) {
        let bytes = dict().code(&codes.concat()).file(&[("0", 16)]);
        let _ = ran("instructions", || read(&bytes));
    }

    /// Sizes, strides and offsets as they come, around one storage of 64 numbers.
    #[test]
    fn prop_any_view_lies_inside_its_storage(
        at in -1..70_i64,
        view in prop::collection::vec((-1..9_i64, -1..70_i64), 0..5),
    ) {
        let (shape, strides): (Vec<_>, Vec<_>) = view.into_iter().unzip();
        let pickle = dict().text("w").tensor("0", 64, at, &shape, &strides).code(b"s");
        let bytes = pickle.file(&[("0", 256)]);
        let (source, within) = (TorchSource::new(&bytes), |i: i64| (0..64).contains(&i));
        let last: i64 = at + shape.iter().zip(&strides).map(|(n, s)| (n - 1) * s).sum::<i64>();
        match source {
            Ok(source) => {
                let tensor = source.tensor("w").unwrap();
                let len = shape.iter().product::<i64>();
                prop_assert!(shape.iter().chain(&strides).all(|n| *n >= 0) && at >= 0);
                prop_assert!(len == 0 || within(at) && within(last));
                prop_assert_eq!(tensor.bytes.len() as i64, len * 4);
            }
            // What lies inside and steps over nothing twice is no lie.
            Err(error) => {
                let dense = strides.iter().rev().zip(shape.iter().rev().scan(1, |n, s| {
                    let stride = *n;
                    *n *= s;
                    Some(stride)
                }));
                let plain = shape.iter().all(|n| *n >= 0) && dense.into_iter().all(|(s, d)| *s == d);
                prop_assert!(!(plain && at >= 0 && within(last)), "{}", error);
            }
        }
    }
}
