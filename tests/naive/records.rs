//! Any bytes as lines of an evaluation: prompts, results, detections. What is read is sound, and reads back as itself.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use support::rules::Rules;
use support::{detections, requests, results};

/// A file of this thread alone, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static FILES: AtomicUsize = AtomicUsize::new(0);
        let (pid, n) = (std::process::id(), FILES.fetch_add(1, Ordering::Relaxed));
        Self(std::env::temp_dir().join(format!("maquette-records-{pid}-{n}.jsonl")))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Any bytes in every part; in how many they were something.
pub fn records(bytes: &[u8]) -> usize {
    let Scratch(path) = &Scratch::new();
    fs::write(path, bytes).unwrap();
    let mut read = 0;
    if let Ok(lines) = results::read(path) {
        read += usize::from(!lines.is_empty());
        sound(&lines);
    }
    let asked = requests::read(path);
    let scored = detections::score(path, &Rules::bundled(), &[]);
    if let Ok(asked) = asked {
        read += usize::from(!asked.is_empty());
        let line = |request| serde_json::to_string(request).unwrap() + "\n";
        let text: String = asked.iter().map(line).collect();
        fs::write(path, &text).unwrap();
        let again: String = requests::read(path).unwrap().iter().map(line).collect();
        assert_eq!(text, again);
    }
    if let Ok(lines) = scored {
        read += 1;
        sound(&lines);
        let text: Vec<String> = lines.values().map(ToString::to_string).collect();
        fs::write(path, text.join("\n") + "\n").unwrap();
        assert_eq!(results::read(path).unwrap(), lines);
    }
    read
}

/// Shares are shares, and a run does not differ from itself.
fn sound(lines: &results::Lines) {
    let unit = |share: &f64| (0.0..=1.0).contains(share);
    assert!(results::summary(lines).iter().all(unit));
    assert!(results::shares(lines).means.iter().all(|(_, m)| unit(m)));
    if let Ok(differences) = results::differences(lines, lines) {
        assert!(differences.means.iter().all(|(_, m)| *m == 0.0));
    }
}
