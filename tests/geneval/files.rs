use std::fs;
use std::path::Path;
use std::thread;

use support::png_file::write_whole;

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
