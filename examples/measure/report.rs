//! Measurements: a line each as they come, and all of them as one line of JSON.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};
use support::{say, status};

/// All that was measured, by section.
#[derive(Default)]
pub struct Report {
    sections: Map<String, Value>,
    section: String,
}

impl Report {
    /// What follows belongs to this.
    pub fn begin(&mut self, section: &str) {
        section.clone_into(&mut self.section);
        self.sections
            .insert(section.to_owned(), Value::Object(Map::new()));
        say!("{section}");
    }

    /// A measurement; the key tells the unit.
    pub fn put(&mut self, key: &str, value: impl Into<Value>) {
        let value = value.into();
        let shown = match &value {
            Value::Number(n) if n.is_f64() => format!("{:.3}", n.as_f64().unwrap_or(f64::NAN)),
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        say!("  {:<34} {shown}", key.replace('_', " "));
        self.sections[&self.section][key] = value;
    }

    /// A measurement that there may be none of.
    pub fn put_some(&mut self, key: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.put(key, value);
        }
    }

    /// Memory of this process: now, and at its peak so far.
    pub fn memory(&mut self) {
        for (key, line) in [("resident_gib", "VmRSS"), ("peak_gib", "VmHWM")] {
            let gib = status::kib(line).map(|kib| kib as f64 / f64::from(1 << 20));
            self.put(key, gib.map_or_else(|| "unknown".into(), Value::from));
        }
    }

    /// The last line.
    pub fn end(self) {
        say!("{}", Value::Object(self.sections));
    }
}

/// GB of the weights in a folder.
pub fn weights_gb(folder: &Path) -> f64 {
    let known = ["safetensors", "bin", "pt", "pth", "gguf"];
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let weights = files.filter(|file| {
        let path = file.path();
        let end = path.extension().unwrap_or_default();
        known.iter().any(|known| end == *known)
    });
    let bytes = weights.filter_map(|file| Some(file.metadata().ok()?.len()));
    #[expect(clippy::cast_precision_loss, reason = "for people to read")]
    let gb = bytes.sum::<u64>() as f64 / 1e9;
    gb
}
