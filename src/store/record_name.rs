//! The name of a record in `processes`.
//!
//! Usually `PID`. While a live process of another PID namespace, or of another machine, has that name, it is
//! `PID-NAMESPACE-BOOT`: the inode of the namespace, and the first eight characters of the kernel's boot id. So two
//! containers that share a directory, each with a process of PID 1, write one record each.

use crate::sys::identity::Identity;

/// The ordinary name.
pub fn short(identity: &Identity) -> String {
    identity.pid.to_string()
}

/// A name that no other container or machine has; `None` without /proc.
pub fn long(identity: &Identity) -> Option<String> {
    let boot: String = identity.boot_id.as_ref()?.chars().take(8).collect();
    Some(format!("{}-{}-{boot}", identity.pid, identity.pid_namespace?))
}

/// The pid in a name of either form; `None` if it has neither.
pub fn pid(name: &str) -> Option<i32> {
    let mut parts = name.split('-');
    let pid = parts.next()?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_boot = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => {}
        (Some(namespace), Some(boot), None) if is_number(namespace) && is_boot(boot) => {}
        _ => return None,
    }
    pid.parse().ok().filter(|number: &i32| *number > 0 && number.to_string() == pid)
}

/// Whether a record may have this name.
pub fn is_of(name: &str, identity: &Identity) -> bool {
    name == short(identity) || long(identity).is_some_and(|long| name == long)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let identity = Identity {
            pid: 7,
            start_time: Some(1),
            boot_id: Some("5c7be2aa-0000-4000-8000-000000000000".to_owned()),
            pid_namespace: Some(4_026_532_198),
        };
        assert_eq!(short(&identity), "7");
        assert_eq!(long(&identity).unwrap(), "7-4026532198-5c7be2aa");
        assert_eq!(long(&Identity { pid_namespace: None, ..identity.clone() }), None);
        for name in ["7", "7-4026532198-5c7be2aa"] {
            assert_eq!((pid(name), is_of(name, &identity)), (Some(7), true), "{name}");
        }
        for (name, expected) in [
            ("7-4026532199-5c7be2aa", Some(7)),
            ("8", Some(8)),
            ("7-1", None),
            ("7-x-5c7be2aa", None),
            ("7-1-", None),
            ("7-1-a-b", None),
            ("7-", None),
            ("-7", None),
            ("-7-1-a", None),
            ("07", None),
            ("0-1-a", None),
            ("+7", None),
            ("", None),
        ] {
            assert_eq!((pid(name), is_of(name, &identity)), (expected, false), "{name}");
        }
    }
}
