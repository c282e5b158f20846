//! JPEG: the pixels of each of some hundred generated files are Pillow's (tools/jpeg/make.py).

use std::{collections::BTreeMap, fs, path::Path};

use qwen2vl::media::{self, Limits, Size};

use crate::sha256::sha256;

#[test]
fn pixels_of_generated_files_are_pillows() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/jpeg");
    let pack = fs::read(folder.join("pack.bin")).unwrap();
    let digests = fs::read_to_string(folder.join("digests.txt")).unwrap();
    let (mut rest, mut wrong) = (pack.as_slice(), Vec::new());
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for line in digests.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<&str> = line.split(' ').collect();
        let [name, bytes, height, width, digest] = fields.as_slice() else { panic!("{line}") };
        let number = |text: &str| text.parse::<usize>().unwrap();
        let (file, after) = rest.split_at(number(bytes));
        rest = after;
        *kinds.entry(name.split_once('-').unwrap().1).or_default() += 1;
        let size = Size { height: number(height), width: number(width) };
        let picture = media::decode(file, &Limits::default());
        let picture = picture.unwrap_or_else(|error| panic!("{name}: {error}: {error:?}"));
        assert_eq!(picture.size(), size, "{name}");
        if sha256(picture.data()) != *digest {
            wrong.push(name.to_string());
        }
    }
    assert!(rest.is_empty(), "the pack has more bytes than its list");
    println!("jpeg: {} files of {} kinds", kinds.values().sum::<usize>(), kinds.len());
    assert!(kinds.values().sum::<usize>() >= 500);
    for kind in ["rgb-4:4:4", "rgb-4:2:2", "rgb-4:2:0", "gray", "cmyk", "ycck", "kept-rgb"] {
        for form in ["", "-progressive", "-restart", "-restart-progressive"] {
            assert!(kinds.contains_key(format!("{kind}{form}").as_str()), "{kind}{form}");
        }
    }
    assert_eq!(wrong, [""; 0], "pixels differ from Pillow's");
}
