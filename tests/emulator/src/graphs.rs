//! Streams that record what they are told, and graphs that repeat it.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::Memory;
use crate::state::{INVALID_VALUE, SUCCESS, Work, allocated, freed, memory, run, sticky};

const ILLEGAL_STATE: c_uint = 401;
const UNSUPPORTED: c_uint = 900;
const INVALIDATED: c_uint = 901;

/// Something that a stream was told to do.
pub(crate) enum Node {
    Launch(Work),
    Copy {
        to: u64,
        from: u64,
        bytes: usize,
    },
    Fill {
        at: u64,
        byte: u8,
        bytes: usize,
    },
    /// Memory that is the graph's own, and holds nothing when it is taken.
    Take {
        at: u64,
    },
}

impl Node {
    fn run(&self) -> c_uint {
        let done = match self {
            Self::Launch(work) => return run(work),
            Self::Copy { to, from, bytes } => memory().copy(*from, *to, *bytes),
            Self::Fill { at, byte, bytes } => memory().fill(*at, *byte, *bytes),
            Self::Take { at } => Memory::forget(&memory(), *at),
        };
        match done {
            Ok(()) => sticky(),
            Err(error) => {
                eprintln!("emulator: a graph: {error}");
                INVALID_VALUE
            }
        }
    }
}

/// Nodes in their order; the memory that they take lives as long.
#[derive(Default)]
struct Graph(Vec<Node>);

impl Drop for Graph {
    fn drop(&mut self) {
        for node in &self.0 {
            if let Node::Take { at } = node {
                freed(Arc::make_mut(&mut allocated()).take_back(*at));
            }
        }
    }
}

/// What a stream has recorded; nothing once it was told something that cannot be repeated.
static STREAMS: Mutex<BTreeMap<usize, Option<Graph>>> = Mutex::new(BTreeMap::new());
/// Streams that record.
static RECORDING: AtomicUsize = AtomicUsize::new(0);
static NEXT: AtomicUsize = AtomicUsize::new(2);
/// Graphs, and those made ready, by their numbers.
static GRAPHS: Mutex<BTreeMap<usize, Arc<Graph>>> = Mutex::new(BTreeMap::new());

thread_local! {
    static REPEATED: Cell<u64> = const { Cell::new(0) };
}

fn streams() -> MutexGuard<'static, BTreeMap<usize, Option<Graph>>> {
    STREAMS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn graphs() -> MutexGuard<'static, BTreeMap<usize, Arc<Graph>>> {
    GRAPHS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that no stream and no graph has.
fn number() -> usize {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Records a node, if the stream does; else gives it back.
pub(crate) fn recorded(stream: usize, node: Node) -> Result<c_uint, Node> {
    if RECORDING.load(Ordering::Relaxed) == 0 {
        return Err(node);
    }
    match streams().get_mut(&stream) {
        None => Err(node),
        Some(None) => Ok(INVALIDATED),
        Some(Some(graph)) => {
            graph.0.push(node);
            Ok(SUCCESS)
        }
    }
}

/// Whether a stream records.
pub(crate) fn records(stream: usize) -> bool {
    RECORDING.load(Ordering::Relaxed) > 0 && streams().contains_key(&stream)
}

/// What a stream that records cannot do: its record is lost.
pub(crate) fn refused(stream: usize) -> Option<c_uint> {
    if RECORDING.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let lost = streams().get_mut(&stream)?.take();
    drop(lost);
    Some(UNSUPPORTED)
}

/// Gives back memory that a stream's record has taken; the record's end gives it back in truth.
pub(crate) fn given_back(stream: usize, at: u64) -> c_uint {
    match streams().get_mut(&stream) {
        Some(Some(graph)) => {
            let own = |node: &Node| matches!(node, Node::Take { at: of } if *of == at);
            if graph.0.iter().any(own) {
                SUCCESS
            } else {
                INVALID_VALUE
            }
        }
        _ => INVALIDATED,
    }
}

/// The entry points; they are found by name.
pub mod entry {
    use super::*;

    fn set<T>(out: *mut T, value: T) -> c_uint {
        if out.is_null() {
            return INVALID_VALUE;
        }
        // SAFETY: the driver's interface asks callers for a place to write to.
        unsafe { out.write(value) };
        SUCCESS
    }

    /// How often this thread has launched a graph so far.
    #[unsafe(no_mangle)]
    pub extern "C" fn emulator_repeated() -> u64 {
        REPEATED.get()
    }

    #[unsafe(no_mangle)]
    pub(super) extern "C" fn cuStreamCreate(out: *mut usize, _flags: c_uint) -> c_uint {
        set(out, number())
    }

    #[unsafe(no_mangle)]
    pub(super) extern "C" fn cuStreamDestroy_v2(stream: usize) -> c_uint {
        if let Some(lost) = streams().remove(&stream) {
            RECORDING.fetch_sub(1, Ordering::Relaxed);
            drop(lost);
        }
        SUCCESS
    }

    #[unsafe(no_mangle)]
    pub(super) extern "C" fn cuStreamBeginCapture_v2(stream: usize, _mode: c_int) -> c_uint {
        let mut streams = streams();
        if streams.contains_key(&stream) {
            return ILLEGAL_STATE;
        }
        streams.insert(stream, Some(Graph::default()));
        RECORDING.fetch_add(1, Ordering::Relaxed);
        SUCCESS
    }

    #[unsafe(no_mangle)]
    pub(super) extern "C" fn cuStreamEndCapture(stream: usize, out: *mut usize) -> c_uint {
        let recorded = streams().remove(&stream);
        let Some(recorded) = recorded else {
            return ILLEGAL_STATE;
        };
        RECORDING.fetch_sub(1, Ordering::Relaxed);
        let Some(graph) = recorded else {
            set(out, 0);
            return INVALIDATED;
        };
        let number = number();
        graphs().insert(number, Arc::new(graph));
        set(out, number)
    }

    #[unsafe(no_mangle)]
    pub(super) extern "C" fn cuGraphInstantiateWithFlags(
        out: *mut usize,
        graph: usize,
        _flags: u64,
    ) -> c_uint {
        let mut graphs = graphs();
        let Some(graph) = graphs.get(&graph).cloned() else {
            return INVALID_VALUE;
        };
        let number = number();
        graphs.insert(number, graph);
        set(out, number)
    }

    #[unsafe(no_mangle)]
    pub(super) extern "C" fn cuGraphLaunch(graph: usize, stream: usize) -> c_uint {
        if let Some(status) = refused(stream) {
            return status;
        }
        let Some(graph) = graphs().get(&graph).cloned() else {
            return INVALID_VALUE;
        };
        REPEATED.set(REPEATED.get() + 1);
        let failed = graph
            .0
            .iter()
            .map(Node::run)
            .find(|&status| status != SUCCESS);
        failed.unwrap_or_else(sticky)
    }

    #[unsafe(no_mangle)]
    pub(super) extern "C" fn cuGraphDestroy(graph: usize) -> c_uint {
        match graphs().remove(&graph) {
            Some(_) => SUCCESS,
            None => INVALID_VALUE,
        }
    }

    #[unsafe(no_mangle)]
    pub(super) extern "C" fn cuGraphExecDestroy(graph: usize) -> c_uint {
        cuGraphDestroy(graph)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of device memory as a stream's work leaves them.
    fn read(at: u64) -> [u8; 4] {
        let mut out = [0; 4];
        memory().read(at, &mut out).unwrap();
        out
    }

    #[test]
    fn what_is_recorded_runs_when_its_graph_is_launched_and_as_often() {
        let (mut stream, mut graph, mut ready) = (0, 0, 0);
        assert_eq!(entry::cuStreamCreate(&raw mut stream, 0), SUCCESS);
        let at = Arc::make_mut(&mut allocated()).allocate(8).unwrap();
        memory().write(at, &[1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
        assert_eq!(entry::cuStreamBeginCapture_v2(stream, 0), SUCCESS);
        assert_eq!(entry::cuStreamBeginCapture_v2(stream, 0), ILLEGAL_STATE);
        let copy = Node::Copy {
            to: at,
            from: at + 4,
            bytes: 4,
        };
        assert!(matches!(recorded(stream, copy), Ok(SUCCESS)));
        let own = Arc::make_mut(&mut allocated()).allocate(4).unwrap();
        assert!(matches!(
            recorded(stream, Node::Take { at: own }),
            Ok(SUCCESS)
        ));
        assert_eq!(given_back(stream, own), SUCCESS);
        assert_eq!(given_back(stream, at), INVALID_VALUE);
        assert_eq!(read(at), [1, 2, 3, 4]);
        assert_eq!(entry::cuStreamEndCapture(stream, &raw mut graph), SUCCESS);
        let made = entry::cuGraphInstantiateWithFlags(&raw mut ready, graph, 0);
        assert_eq!((made, entry::cuGraphDestroy(graph)), (SUCCESS, SUCCESS));
        for times in [[5, 6, 7, 8], [9; 4]] {
            memory().write(own, &[0; 4]).unwrap();
            assert_eq!(entry::cuGraphLaunch(ready, stream), SUCCESS);
            assert_eq!(read(at), times);
            // Its own memory holds nothing again.
            assert_eq!(read(own), [0xff; 4]);
            memory().write(at + 4, &[9; 4]).unwrap();
        }
        assert_eq!(entry::cuGraphExecDestroy(ready), SUCCESS);
        assert!(memory().read(own, &mut [0; 4]).is_err());
        assert_eq!(entry::cuGraphLaunch(ready, stream), INVALID_VALUE);
        assert!(Arc::make_mut(&mut allocated()).free(at));
        assert_eq!(entry::cuStreamDestroy_v2(stream), SUCCESS);
    }

    #[test]
    fn a_record_is_lost_where_the_host_takes_part() {
        let (mut stream, mut graph) = (0, 7);
        entry::cuStreamCreate(&raw mut stream, 0);
        assert!(refused(stream).is_none() && !records(stream));
        entry::cuStreamBeginCapture_v2(stream, 0);
        assert!(records(stream));
        assert_eq!(refused(stream), Some(UNSUPPORTED));
        assert!(matches!(
            recorded(stream, Node::Take { at: 0 }),
            Ok(INVALIDATED)
        ));
        assert_eq!(
            entry::cuStreamEndCapture(stream, &raw mut graph),
            INVALIDATED
        );
        assert_eq!(graph, 0);
        assert_eq!(
            entry::cuStreamEndCapture(stream, &raw mut graph),
            ILLEGAL_STATE
        );
    }
}
