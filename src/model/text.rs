//! Text from other programs, made safe for a terminal, a log, or a file that others may read.

/// Unicode's format characters (Cf, and the separators Zl and Zp): they reverse text (bidirectional overrides), join
/// it, or are invisible. A spec compares them with Ruby's own table.
const FORMATS: &[(char, char)] = &[
    ('\u{AD}', '\u{AD}'),
    ('\u{600}', '\u{605}'),
    ('\u{61C}', '\u{61C}'),
    ('\u{6DD}', '\u{6DD}'),
    ('\u{70F}', '\u{70F}'),
    ('\u{890}', '\u{891}'),
    ('\u{8E2}', '\u{8E2}'),
    ('\u{180E}', '\u{180E}'),
    ('\u{200B}', '\u{200F}'),
    ('\u{2028}', '\u{202E}'),
    ('\u{2060}', '\u{2064}'),
    ('\u{2066}', '\u{206F}'),
    ('\u{FEFF}', '\u{FEFF}'),
    ('\u{FFF9}', '\u{FFFB}'),
    ('\u{110BD}', '\u{110BD}'),
    ('\u{110CD}', '\u{110CD}'),
    ('\u{13430}', '\u{1343F}'),
    ('\u{1BCA0}', '\u{1BCA3}'),
    ('\u{1D173}', '\u{1D17A}'),
    ('\u{E0001}', '\u{E0001}'),
    ('\u{E0020}', '\u{E007F}'),
];

/// Replaces what must not be read.
const HIDDEN: &str = "[hidden]";

/// Parts of a name whose value is a secret. In Ruby: `lib/sidekiq_lifecycle/text.rb`.
const SECRET: &[&str] = &[
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "credential",
    "authorization",
    "api_key",
    "api-key",
    "apikey",
    "access_key",
    "access-key",
    "private_key",
    "private-key",
];

/// How to inspect or signal a process other than as its own user. A root that may not do that has too few
/// capabilities, as in Docker.
#[must_use]
pub fn as_root(is_root: bool) -> &'static str {
    if is_root { "with docker exec --privileged" } else { "as root" }
}

/// One line without control characters or invisible ones: a space replaces each.
#[must_use]
pub fn one_line(text: &str) -> String {
    let is_format = |letter: char| FORMATS.iter().any(|(first, last)| (*first..=*last).contains(&letter));
    text.chars().map(|letter| if letter.is_control() || is_format(letter) { ' ' } else { letter }).collect()
}

/// The text without possible secrets: user and password of a URL, the value of an environment variable
/// (`NAME=value`), and of anything named like a password or a token. It hides too much rather than too little.
#[must_use]
pub fn masked(text: &str) -> String {
    text.split('\n').map(|line| without_values(&without_users(&without_command(line)))).collect::<Vec<_>>().join("\n")
}

/// Redis repeats an unknown command, AUTH and HELLO among them.
fn without_command(line: &str) -> String {
    const REPEATS: &str = "with args beginning with:";
    line.split_once(REPEATS).map_or_else(|| line.to_owned(), |(before, _)| format!("{before}{REPEATS} {HIDDEN}"))
}

/// From `://` to the last `@` of the same word or quotation: a password may contain anything.
fn without_users(line: &str) -> String {
    const BEGINS: &str = "://";
    let mut shown = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once(BEGINS) {
        let end = after.find(['"', '\'', '`']).unwrap_or(after.len());
        let host = after.get(..end).and_then(|word| word.rfind('@')).unwrap_or_default();
        let hidden = if after.get(host..).is_some_and(|host| host.starts_with('@')) { HIDDEN } else { "" };
        shown.extend([before, BEGINS, hidden]);
        rest = after.get(host..).unwrap_or_default();
    }
    shown + rest
}

/// `NAME=value`, `name: value` and `--name value`, if the name is one of an environment variable or of a secret.
fn without_values(line: &str) -> String {
    let mut shown = String::new();
    let mut rest = line;
    while let Some(at) = rest.find(['=', ':', ' ']) {
        let (before, after) = rest.split_at(at);
        let name = before.trim_end_matches(['"', '\'']);
        let is_in_name = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
        let begin = name.rfind(|letter| !is_in_name(letter)).map_or(0, |index| index + 1);
        let name = name.get(begin..).unwrap_or_default();
        let value = after.trim_start_matches(['=', ':', '>', ' ']);
        let between = after.get(..after.len() - value.len()).unwrap_or_default();
        let is_hidden = match between.chars().next() {
            Some('=') => is_variable(name) || is_secret(name),
            Some(':') => is_secret(name) && !value.starts_with('/'),
            _ => name.starts_with("--") && is_secret(name) && !value.starts_with('-'),
        };
        shown.extend([before, between]);
        let length = if is_hidden { length_of_value(value) } else { 0 };
        if length > 0 {
            shown.push_str(HIDDEN);
        }
        rest = value.get(length..).unwrap_or_default();
    }
    shown + rest
}

/// Up to the end of the quotation or of the word.
fn length_of_value(value: &str) -> usize {
    match value.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            value.get(1..).and_then(|inner| inner.find(quote)).map_or(value.len(), |end| end + 2)
        }
        _ => value.find([' ', '\t', ';', '|', '&', '"', '\'', '`', ',', ')', '}']).unwrap_or(value.len()),
    }
}

fn is_variable(name: &str) -> bool {
    let is_of_one = |letter: char| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_';
    name.starts_with(|letter: char| letter.is_ascii_uppercase() || letter == '_') && name.chars().all(is_of_one)
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRET.iter().any(|secret| name.contains(secret))
}

/// "process 7"; "3 processes (7, 8, 9)".
#[must_use]
pub fn process_names(pids: &[i32]) -> String {
    match pids {
        [pid] => format!("process {pid}"),
        pids => {
            let all: Vec<String> = pids.iter().map(i32::to_string).collect();
            format!("{} processes ({})", all.len(), all.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_for_a_terminal() {
        for (text, expected) in [
            ("plain, Grün, 日本", "plain, Grün, 日本"),
            ("a\nb\x1b[31mc\u{9b}d", "a b [31mc d"),
            ("web\u{202E}gpj\u{200B}.\u{2066}\u{2069}\u{FEFF}x\u{2028}y\u{E0041}", "web gpj .   x y "),
        ] {
            assert_eq!(one_line(text), expected);
        }
    }

    #[test]
    fn as_whom_to_inspect_a_process() {
        assert_eq!([as_root(false), as_root(true)], ["as root", "with docker exec --privileged"]);
    }

    #[test]
    fn secrets_are_hidden() {
        for (text, expected) in [
            ("bundle exec sidekiq -r ./app.rb -c 5", "bundle exec sidekiq -r ./app.rb -c 5"),
            ("REDIS_URL=redis://:pw@h:1/0 A=\"b c\" sidekiq; x", "REDIS_URL=[hidden] A=[hidden] sidekiq; x"),
            ("cannot reach redis://u:p@w@h:6379 (Timeout)", "cannot reach redis://[hidden]@h:6379 (Timeout)"),
            (
                "bad URI: \"redis://:p w@h\" or 'rediss://a:b@c/0'",
                "bad URI: \"redis://[hidden]@h\" or 'rediss://[hidden]@c/0'",
            ),
            ("redis://127.0.0.1:6379/0 refuses", "redis://127.0.0.1:6379/0 refuses"),
            ("--password hunter2 --token=x -v", "--password [hidden] --token=[hidden] -v"),
            (
                "{:password=>\"x y\", \"api_key\": 'z', host: 1}",
                "{:password=>[hidden], \"api_key\": [hidden], host: 1}",
            ),
            (
                "ERR unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'x'",
                "ERR unknown command 'HELLO', with args beginning with: [hidden]",
            ),
            ("Errno::ENOENT: no such file: /run/x=y", "Errno::ENOENT: no such file: /run/x=y"),
            ("KeyError: key not found: \"TOKEN\"", "KeyError: key not found: \"TOKEN\""),
            ("one\nSECRET=two\nthree", "one\nSECRET=[hidden]\nthree"),
            ("PASSWORD=", "PASSWORD="),
            ("é=ü token: ß", "é=ü token: [hidden]"),
        ] {
            assert_eq!(masked(text), expected, "{text}");
        }
    }
}
