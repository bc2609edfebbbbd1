//! Which part of the work is this process's: rank and world as launchers tell their processes.

use std::error::Error;
use std::path::{Path, PathBuf};

/// Variables of the rank and of the number of processes, the first rank, and whether a rank alone is a mistake. The
/// innermost launcher comes first: mpirun or GNU parallel may run inside an allocation of Slurm.
const LAUNCHERS: [(&str, &str, u64, bool); 6] = [
    // torchrun, and whoever sets them by hand
    ("RANK", "WORLD_SIZE", 0, true),
    // Kubernetes indexed jobs tell the index; the job file tells the number
    ("JOB_COMPLETION_INDEX", "WORLD_SIZE", 0, true),
    // GNU parallel counts its jobs from 1
    ("PARALLEL_SEQ", "WORLD_SIZE", 1, false),
    // mpirun of Open MPI, and of those who speak PMI
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", 0, true),
    ("PMI_RANK", "PMI_SIZE", 0, true),
    // srun; a batch script without a number of tasks has a rank alone
    ("SLURM_PROCID", "SLURM_NTASKS", 0, false),
];
/// Processes on this machine.
const LOCAL: [&str; 3] = [
    "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "SLURM_NTASKS_PER_NODE",
];

/// A process's place among those of its machine.
const LOCAL_RANKS: [&str; 4] = [
    "LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "SLURM_LOCALID",
];

/// This process's place among those that share its machine, 0 if nobody says.
pub fn local_rank(env: impl Fn(&str) -> Option<String>) -> Result<usize, String> {
    for name in LOCAL_RANKS {
        if let Some(text) = env(name).filter(|text| !text.is_empty()) {
            return text
                .parse()
                .map_err(|_| format!("{name} is \"{text}\", which is no number"));
        }
    }
    Ok(0)
}

/// One of several processes that share a work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shard {
    pub rank: u64,
    pub world: u64,
    /// Processes that share this machine's cores.
    pub local: usize,
    /// Who said so.
    pub told_by: &'static str,
}

impl Shard {
    /// What was said on the command line, else what the environment says, else all of the work.
    pub fn find(
        given: Option<(u64, u64)>,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Box<dyn Error>> {
        let number = |name: &str| match env(name).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => match text.parse::<u64>() {
                Ok(n) => Ok(Some(n)),
                Err(_) => Err(format!("{name} is \"{text}\", which is no number")),
            },
        };
        let mut told = given.map(|(rank, world)| (rank, world, "--rank"));
        for (rank, world, first, alone_is_wrong) in LAUNCHERS {
            if told.is_some() {
                break;
            }
            let Some(at) = number(rank)? else { continue };
            match number(world)? {
                Some(n) if at >= first => told = Some((at - first, n, rank)),
                Some(_) => return Err(format!("{rank} is {at}, it counts from {first}").into()),
                None if alone_is_wrong => {
                    return Err(format!(
                        "{rank} is {at}, but {world} does not say of how many: set it, or give --rank and --world"
                    )
                    .into());
                }
                None => {}
            }
        }
        let (rank, world, told_by) = told.unwrap_or((0, 1, ""));
        if rank >= world {
            return Err(
                format!("rank {rank} of {world} processes: {told_by} counts from 0").into(),
            );
        }
        let mut local = 1;
        for name in LOCAL.iter().filter(|_| world > 1) {
            if let Some(n) = number(name)? {
                local = usize::try_from(n)?.max(1);
                break;
            }
        }
        Ok(Self {
            rank,
            world,
            local,
            told_by,
        })
    }

    /// Whether the `i`-th piece of work is this process's.
    pub fn has(&self, i: usize) -> bool {
        i as u64 % self.world == self.rank
    }

    /// This process's own file beside the one that all become.
    pub fn file(&self, whole: &Path) -> PathBuf {
        if self.world == 1 {
            return whole.into();
        }
        whole.with_file_name(format!(
            "{}{}{}",
            stem(whole),
            infix(self.rank, self.world),
            extension(whole)
        ))
    }
}

fn stem(whole: &Path) -> String {
    let stem = whole.file_stem().unwrap_or_default();
    stem.to_string_lossy().into_owned()
}

fn extension(whole: &Path) -> String {
    let extension = whole.extension().map(|e| e.to_string_lossy().into_owned());
    extension.map_or_else(String::new, |e| format!(".{e}"))
}

fn infix(rank: u64, world: u64) -> String {
    format!(".rank-{rank}-of-{world}")
}

/// The files that become `whole`, one a rank: all of them, and of one world.
pub fn files(whole: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let folder = match whole.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let entries =
        std::fs::read_dir(folder).map_err(|e| format!("cannot read {}: {e}", folder.display()))?;
    let (stem, extension) = (stem(whole), extension(whole));
    let mut found: Vec<(u64, u64)> = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let middle = name
            .strip_prefix(&stem)
            .and_then(|rest| rest.strip_suffix(&extension))
            .and_then(|rest| rest.strip_prefix(".rank-"))
            .and_then(|rest| rest.split_once("-of-"));
        if let Some((rank, world)) = middle
            && let (Ok(rank), Ok(world)) = (rank.parse(), world.parse())
        {
            found.push((world, rank));
        }
    }
    found.sort_unstable();
    let Some(&(world, _)) = found.first() else {
        return Err(format!(
            "no files {stem}.rank-…-of-…{extension} in {}",
            folder.display()
        )
        .into());
    };
    if let Some(other) = found.iter().find(|(n, _)| *n != world) {
        return Err(format!(
            "there are files of {world} and of {} processes: take away those of a run that is not wanted",
            other.0
        )
        .into());
    }
    if let Some(rank) = (0..world).find(|&rank| !found.contains(&(world, rank))) {
        return Err(format!("the file of rank {rank} of {world} is missing").into());
    }
    let path = |&(world, rank): &(u64, u64)| {
        whole.with_file_name(format!("{stem}{}{extension}", infix(rank, world)))
    };
    Ok(found.iter().map(path).collect())
}
