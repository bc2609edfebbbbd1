use std::fs;
use std::path::Path;
use std::thread;

use serde_json::json;
use support::png_file::write_whole;
use support::results::Results;

/// Pictures of one prompt are drawn on several threads, and each writes the prompt's record.
#[test]
fn threads_write_one_file_at_once() {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("one-file");
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home).unwrap();
    let file = home.join("metadata.jsonl");
    thread::scope(|scope| {
        for writer in 0..4_u8 {
            let file = &file;
            scope.spawn(move || {
                for _ in 0..100 {
                    write_whole(file, &[writer; 1000]).unwrap();
                    let read = fs::read(file).unwrap();
                    assert!(read.len() == 1000 && read.iter().all(|&b| b == read[0]));
                }
            });
        }
    });
    let names: Vec<_> = fs::read_dir(&home).unwrap().collect();
    assert_eq!(names.len(), 1, "nothing is left beside it: {names:?}");
}

#[test]
fn a_file_that_is_no_result_of_these_settings_is_left_as_it_is() {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("foreign-results");
    let _ = fs::remove_dir_all(&home);
    fs::create_dir_all(&home).unwrap();
    let file = home.join("x.jsonl");
    let header = json!({ "seed": 1 });
    for (text, want) in [
        ("a note without an end", "no result file"),
        ("\n", "no result file"),
        ("{\"seed\":2}\n{\"prompt_index\":0,\"ima", "other settings"),
        ("{\"seed\":1}2", "no result file"),
    ] {
        fs::write(&file, text).unwrap();
        let told = Results::open(&file, &header).unwrap_err().to_string();
        assert!(told.contains(want), "{told}");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
    // What a kill leaves of a header, and of a line behind it.
    for text in [
        "",
        "{\"se",
        "{\"seed\":1}",
        "{\"seed\":1}\n",
        "{\"seed\":1}\n{\"prom",
    ] {
        fs::write(&file, text).unwrap();
        Results::open(&file, &header).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "{\"seed\":1}\n");
    }
}
