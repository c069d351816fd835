//! Which program a Ruby runs, according to its command line.

/// The name of the Ruby program behind a command line: the script, or what `bundle exec` runs. Without its directory
/// and a version at its end (`bundle3.3`). `None` without a script (`ruby -e …`).
#[must_use]
pub fn of_ruby(arguments: &[String]) -> Option<&str> {
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    run_by_ruby(&words)
}

/// The same for a program that has replaced its command line with a title, as `bundle exec` does: the whole line,
/// which starts with the script.
#[must_use]
pub fn of_title(title: &str) -> Option<&str> {
    title.split([' ', ',']).next().map(name)
}

/// `ruby(1)`: the first word that is not an option or an option's value.
fn run_by_ruby<'a>(mut words: &[&'a str]) -> Option<&'a str> {
    while let [word, rest @ ..] = words {
        words = match ruby_option(word) {
            Taken::No => return run_by_script(name(word), rest),
            Taken::End => return rest.first().and_then(|script| run_by_script(name(script), rest.get(1..)?)),
            Taken::Alone => rest,
            Taken::WithValue => rest.get(1..)?,
            Taken::InPlaceOfScript => return None,
        };
    }
    None
}

fn run_by_script<'a>(script: &'a str, words: &[&'a str]) -> Option<&'a str> {
    match script {
        "bundle" | "bundler" => run_by_bundler(words),
        script => Some(script),
    }
}

/// bundle-exec(1), whose short forms are Bundler's own (`cli.rb`, `COMMAND_ALIASES`).
fn run_by_bundler<'a>(words: &[&'a str]) -> Option<&'a str> {
    let (command, rest) = after_options(words)?;
    if !matches!(command, "exec" | "exe" | "ex" | "e") {
        return Some("bundle");
    }
    let (command, rest) = after_options(rest)?;
    let command = name(command);
    // It is about to become that Ruby.
    if is_ruby(command) { run_by_ruby(rest) } else { Some(command) }
}

/// The first word that is not an option of Bundler's or an option's value, and what follows it.
fn after_options<'a, 'b>(mut words: &'b [&'a str]) -> Option<(&'a str, &'b [&'a str])> {
    loop {
        let (word, rest) = words.split_first()?;
        words = match *word {
            "--" => return rest.split_first().map(|(word, rest)| (*word, rest)),
            "--gemfile" | "-g" | "--retry" | "-r" => rest.get(1..)?,
            option if option.starts_with('-') => rest,
            word => return Some((word, rest)),
        };
    }
}

/// Whether a program of this name is a Ruby: `ruby`, `ruby3.3`, `ruby_executable_hooks`.
#[must_use]
pub fn is_ruby(name: &str) -> bool {
    name.starts_with("ruby")
}

/// Whether a process of this name may be a Ruby that runs Sidekiq; the kernel names a process after its script.
#[must_use]
pub fn is_known(name: &str) -> bool {
    matches!(self::name(name), "bundle" | "bundler" | "sidekiq" | "sidekiqswarm")
}

/// What a word before the script is.
enum Taken {
    /// Not an option.
    No,
    /// `--`: the next word is not an option either.
    End,
    /// A whole option.
    Alone,
    /// An option whose value is the next word.
    WithValue,
    /// Code on the command line or standard input, instead of a script.
    InPlaceOfScript,
}

fn ruby_option(word: &str) -> Taken {
    if let Some(long) = word.strip_prefix("--") {
        return match long {
            "" => Taken::End,
            "enable" | "disable" | "encoding" | "external-encoding" | "internal-encoding" | "backtrace-limit"
            | "dump" | "parser" | "crash-report" => Taken::WithValue,
            _ => Taken::Alone,
        };
    }
    let Some(letters) = word.strip_prefix('-') else { return Taken::No };
    // Several may share a dash, and a value may follow without a space.
    for (place, letter) in letters.char_indices() {
        match letter {
            'e' => return Taken::InPlaceOfScript,
            'I' | 'r' | 'C' | 'X' | 'E' if place + 1 == letters.len() => return Taken::WithValue,
            'I' | 'r' | 'C' | 'X' | 'E' | 'F' | 'K' | 'i' | 'x' | 'W' | 'T' => return Taken::Alone,
            _ => {}
        }
    }
    if letters.is_empty() { Taken::InPlaceOfScript } else { Taken::Alone }
}

fn name(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or_default();
    file.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts() {
        let table: &[(&str, Option<&str>)] = &[
            ("ruby /usr/local/bin/sidekiq -t 8", Some("sidekiq")),
            ("ruby bin/sidekiq", Some("sidekiq")),
            ("ruby /usr/bin/sidekiqswarm", Some("sidekiqswarm")),
            ("ruby -S sidekiq -r ./app.rb", Some("sidekiq")),
            ("ruby -w -I lib -rbundler/setup bin/sidekiq", Some("sidekiq")),
            ("ruby -Ilib:test -r ./boot -C /app -E UTF-8:UTF-8 -Ku -W:no-deprecated bin/sidekiq", Some("sidekiq")),
            ("ruby -wI sidekiq worker.rb", Some("worker.rb")),
            ("ruby -r sidekiq worker.rb", Some("worker.rb")),
            ("ruby -x/app -0777 -i.bak bin/sidekiq", Some("sidekiq")),
            (
                "ruby --yjit --disable=gems --enable frozen-string-literal --encoding UTF-8 -- bin/sidekiq",
                Some("sidekiq"),
            ),
            ("ruby -e load(ARGV.shift) sidekiq", None),
            ("ruby -rsidekiq -we p sidekiq", None),
            ("ruby - sidekiq", None),
            ("ruby -r", None),
            ("ruby --", None),
            ("ruby", None),
            ("", None),
            ("ruby worker.rb sidekiq", Some("worker.rb")),
            ("ruby gem.rb install sidekiq", Some("gem.rb")),
            ("ruby3.3 /usr/bin/gem3.3 install sidekiq", Some("gem")),
            ("ruby /usr/bin/rake sidekiq", Some("rake")),
            ("ruby bin/spring sidekiq", Some("spring")),
            ("ruby /usr/bin/foreman run sidekiq", Some("foreman")),
            ("ruby /usr/bin/bundle exec sidekiq -C x.yml", Some("sidekiq")),
            ("ruby bin/bundle exec sidekiq", Some("sidekiq")),
            ("ruby3.3 /usr/bin/bundle3.3 exec bin/sidekiq", Some("sidekiq")),
            ("ruby -S bundler e sidekiq", Some("sidekiq")),
            ("ruby /usr/bin/bundle exec -- sidekiq", Some("sidekiq")),
            ("ruby /usr/bin/bundle exec --gemfile sidekiq rake", Some("rake")),
            ("ruby /usr/bin/bundle -V exec --gemfile=x --keep-file-descriptors sidekiq", Some("sidekiq")),
            ("ruby /usr/bin/bundle exec ruby -S sidekiq", Some("sidekiq")),
            ("ruby /usr/bin/bundle exec ruby worker.rb sidekiq", Some("worker.rb")),
            ("ruby /usr/bin/bundle exec rake sidekiq", Some("rake")),
            ("ruby /usr/bin/bundle update sidekiq", Some("bundle")),
            ("ruby /usr/bin/bundle info exec sidekiq", Some("bundle")),
            ("ruby /usr/bin/bundle exec", None),
            ("ruby /usr/bin/bundle", None),
        ];
        for (line, expected) in table {
            let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert_eq!(of_ruby(&arguments), *expected, "{line}");
        }
    }

    #[test]
    fn titles() {
        for (title, expected) in [
            ("/usr/local/bundle/bin/sidekiq -r ./app.rb", "sidekiq"),
            ("sidekiqswarm, managing 2 processes", "sidekiqswarm"),
            ("/usr/bin/gem install sidekiq", "gem"),
            ("", ""),
        ] {
            assert_eq!(of_title(title), Some(expected), "{title}");
        }
    }
}
