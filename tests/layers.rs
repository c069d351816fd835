//! The layers of src/: no file uses one of a layer above its own, and no two files use each other in a circle.
//!
//! Read from the `use` lines and the paths in the code, outside of tests.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the bottom to the top. The folders of one layer do not use each other.
const LAYERS: [&[&str]; 5] = [&["model"], &["sys", "output"], &["store"], &["relay", "init"], &["worker", "doctor"]];
const TOP: &str = "cli";

fn folder(module: &str) -> &str {
    module.split("::").next().unwrap()
}

fn layer(module: &str) -> usize {
    let top = folder(module);
    LAYERS.iter().position(|layer| layer.contains(&top)).unwrap_or_else(|| {
        assert_eq!(top, TOP, "{module} is in no layer: add its folder to LAYERS");
        LAYERS.len()
    })
}

/// All modules of the crate, with their files: `sys::signals::observer`.
fn modules() -> BTreeMap<String, PathBuf> {
    fn walk(directory: &Path, prefix: &str, found: &mut BTreeMap<String, PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let module = if prefix.is_empty() { name.clone() } else { format!("{prefix}::{name}") };
            if path.is_dir() {
                walk(&path, &module, found);
            } else if name == "mod" {
                found.insert(prefix.to_owned(), path);
            } else if !["lib", "main", "tests"].contains(&name.as_str()) {
                found.insert(module, path);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut found);
    found
}

/// The code of a file: without its tests, comments and strings of documentation.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let code = text.split("\nmod tests {").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Every path that starts at `crate`, `super`, `self` or a child's name, groups expanded, as a path from the crate's root.
fn paths(module: &str, code: &str, all: &BTreeMap<String, PathBuf>) -> BTreeSet<String> {
    let is_folder = all.get(module).is_some_and(|path| path.ends_with("mod.rs"));
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let join = |left: &str, right: &str| if left.is_empty() { right.to_owned() } else { format!("{left}::{right}") };
    let mut found = BTreeSet::new();
    for statement in code.split(';') {
        let statement = statement.trim();
        let Some(start) = statement.rfind("use ").filter(|start| {
            let before = &statement[..*start];
            before.is_empty() || before.ends_with(char::is_whitespace)
        }) else {
            continue;
        };
        for path in expand(&statement[start + 4..]) {
            found.insert(path);
        }
    }
    let words = code.split(|letter: char| !(letter.is_alphanumeric() || letter == '_' || letter == ':'));
    found.extend(words.filter(|word| word.contains("::")).map(str::to_owned));
    let resolve = |path: &String| -> Option<String> {
        let rest = |word: &str| path.strip_prefix(word).and_then(|rest| rest.strip_prefix("::"));
        if let Some(rest) = rest("crate").or_else(|| rest("sidekiq_lifecycle")) {
            return Some(rest.to_owned());
        }
        if let Some(rest) = rest("super::super") {
            return Some(join(parent.rsplit_once("::").map_or("", |(parent, _)| parent), rest));
        }
        if let Some(rest) = rest("super") {
            return Some(join(parent, rest));
        }
        // A child, from its parent.
        let child = join(module, path.split("::").next()?);
        (all.contains_key(&child) && (is_folder || all.contains_key(&child))).then(|| join(module, path))
    };
    found.iter().filter_map(resolve).collect()
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn expand(path: &str) -> Vec<String> {
    let path = path.split_whitespace().collect::<Vec<_>>().join(" ");
    let Some((prefix, group)) = path.split_once('{') else { return vec![path.replace(' ', "")] };
    let group = group.trim().trim_end_matches('}');
    let (mut depth, mut part, mut parts) = (0, String::new(), Vec::new());
    for letter in group.chars() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            _ => {}
        }
        part.push(letter);
    }
    parts.push(part);
    parts.iter().flat_map(|part| expand(&format!("{}{}", prefix.trim(), part.trim()))).collect()
}

/// Which modules each module uses.
fn uses() -> BTreeMap<String, BTreeSet<String>> {
    let all = modules();
    let module_of = |path: &str| {
        let mut path = path;
        loop {
            if all.contains_key(path) {
                return Some(path.to_owned());
            }
            path = path.rsplit_once("::")?.0;
        }
    };
    all.iter()
        .map(|(module, file)| {
            let used = paths(module, &code(file), &all);
            let used = used.iter().filter_map(|path| module_of(path)).filter(|used| used != module).collect();
            (module.clone(), used)
        })
        .collect()
}

#[test]
fn a_file_uses_only_its_own_folder_and_the_layers_below() {
    let uses = uses();
    assert!(uses.len() > 50 && uses["sys::mailbox"].contains("model::relay_message"), "the files were read: {uses:#?}");
    let upwards: Vec<String> = uses
        .iter()
        .flat_map(|(module, used)| {
            let is_allowed = |used: &&String| layer(used) < layer(module) || folder(used) == folder(module);
            used.iter().filter(move |used| !is_allowed(used)).map(move |used| format!("{module} uses {used}"))
        })
        .collect();
    assert!(upwards.is_empty(), "{upwards:#?}");
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let uses = uses();
    let reaches = |from: &str| {
        let mut seen: BTreeSet<&str> = BTreeSet::new();
        let mut next: Vec<&str> = uses[from].iter().map(String::as_str).collect();
        while let Some(module) = next.pop() {
            if seen.insert(module) {
                next.extend(uses[module].iter().map(String::as_str));
            }
        }
        seen
    };
    let circles: Vec<String> = uses
        .iter()
        .flat_map(|(module, used)| {
            used.iter()
                .filter(|used| reaches(used).contains(module.as_str()))
                .map(move |used| format!("{module} uses {used}, which uses it in turn"))
        })
        .collect();
    assert!(circles.is_empty(), "{circles:#?}");
}

#[test]
fn groups_of_paths_are_expanded() {
    for (path, expected) in
        [("a::b", vec!["a::b"]), ("a::{b, c::{d, e}, self}", vec!["a::b", "a::c::d", "a::c::e", "a::self"])]
    {
        assert_eq!(expand(path), expected);
    }
}
