//! How launchers say which rank a process is, and where its file lies.

use std::path::Path;

use support::shard::*;

fn found(vars: &[(&str, &str)]) -> Result<(u64, u64, usize), String> {
    let env = |name: &str| {
        let var = vars.iter().find(|var| var.0 == name);
        var.map(|var| var.1.to_owned())
    };
    let shard = Shard::find(None, env).map_err(|e| e.to_string())?;
    Ok((shard.rank, shard.world, shard.local))
}

#[test]
fn every_launcher_is_understood() {
    let slurm = [("SLURM_PROCID", "0"), ("SLURM_NTASKS", "4")];
    let inside = |vars: &[(&'static str, &'static str)]| [vars, &slurm].concat();
    for (vars, want) in [
        (vec![], (0, 1, 1)),
        (
            vec![
                ("RANK", "2"),
                ("WORLD_SIZE", "4"),
                ("LOCAL_WORLD_SIZE", "2"),
            ],
            (2, 4, 2),
        ),
        (
            vec![("JOB_COMPLETION_INDEX", "3"), ("WORLD_SIZE", "8")],
            (3, 8, 1),
        ),
        (slurm.to_vec(), (0, 4, 1)),
        (inside(&[("SLURM_NTASKS_PER_NODE", "2")]), (0, 4, 2)),
        // An inner launcher knows better than the allocation around it.
        (
            inside(&[("PARALLEL_SEQ", "1"), ("WORLD_SIZE", "2")]),
            (0, 2, 1),
        ),
        (inside(&[("PMI_RANK", "1"), ("PMI_SIZE", "2")]), (1, 2, 1)),
        (
            inside(&[
                ("OMPI_COMM_WORLD_RANK", "1"),
                ("OMPI_COMM_WORLD_SIZE", "2"),
                ("OMPI_COMM_WORLD_LOCAL_SIZE", "2"),
            ]),
            (1, 2, 2),
        ),
        // Jobs of GNU parallel and scripts of one task are wholes unless told otherwise.
        (vec![("PARALLEL_SEQ", "7")], (0, 1, 1)),
        (vec![("SLURM_PROCID", "0")], (0, 1, 1)),
    ] {
        assert_eq!(found(&vars), Ok(want), "{vars:?}");
    }
}

#[test]
fn half_of_a_rank_is_told() {
    for (vars, want) in [
        (vec![("RANK", "0")], "WORLD_SIZE does not say"),
        (
            vec![("JOB_COMPLETION_INDEX", "0")],
            "WORLD_SIZE does not say",
        ),
        (vec![("RANK", "4"), ("WORLD_SIZE", "4")], "counts from 0"),
        (vec![("RANK", "0"), ("WORLD_SIZE", "0")], "counts from 0"),
        (vec![("RANK", "one"), ("WORLD_SIZE", "4")], "no number"),
        (
            vec![("PARALLEL_SEQ", "0"), ("WORLD_SIZE", "4")],
            "counts from 1",
        ),
    ] {
        let told = found(&vars).unwrap_err();
        assert!(told.contains(want), "{vars:?}: {told}");
    }
}

#[test]
fn the_ranks_share_everything_and_nothing_twice() {
    let shard = |rank| Shard::find(Some((rank, 3)), |_| None).unwrap();
    for i in 0..10 {
        assert_eq!((0..3).filter(|&rank| shard(rank).has(i)).count(), 1);
    }
    let file = shard(1).file(Path::new("out/x.jsonl"));
    assert_eq!(file, Path::new("out/x.rank-1-of-3.jsonl"));
    let whole = Shard::find(None, |_| None).unwrap();
    assert_eq!(whole.file(Path::new("x.jsonl")), Path::new("x.jsonl"));
}

#[test]
fn a_gpu_falls_to_a_rank_by_its_place_on_the_machine() {
    let told = |name: &'static str, text: &'static str| {
        local_rank(move |asked| (asked == name).then(|| text.to_owned()))
    };
    assert_eq!(local_rank(|_| None), Ok(0));
    for name in ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"] {
        assert_eq!(told(name, "3"), Ok(3));
    }
    assert_eq!(told("LOCAL_RANK", ""), Ok(0));
    assert!(told("LOCAL_RANK", "one").unwrap_err().contains("no number"));
}
