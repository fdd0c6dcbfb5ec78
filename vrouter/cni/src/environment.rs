//! The environment variables of a call (CNI specification 1.1, section 2).

use crate::{Code, Error};
use std::path::PathBuf;

/// Linux: IFNAMSIZ less the terminating zero.
const INTERFACE_NAME_LIMIT: usize = 15;

/// Which container and interface a call is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// CNI_CONTAINERID.
    pub container: String,
    /// CNI_IFNAME.
    pub interface: String,
    /// CNI_NETNS; absent when the namespace is already gone.
    pub netns: Option<PathBuf>,
    /// CNI_ARGS.
    pub arguments: Arguments,
}

/// What the plugin understands of CNI_ARGS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    /// K8S_POD_NAMESPACE.
    pub pod_namespace: Option<String>,
    /// K8S_POD_NAME.
    pub pod_name: Option<String>,
    /// K8S_POD_UID, when it has the form of a uid of the Kubernetes API; that of a static pod is a hash.
    pub pod_uid: Option<String>,
}

impl Arguments {
    /// A name for people: `namespace/pod`, or nothing.
    #[must_use]
    pub fn workload(&self) -> String {
        match (&self.pod_namespace, &self.pod_name) {
            (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
            (None, Some(name)) => name.clone(),
            _ => String::new(),
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        let mut arguments = Self::default();
        let mut unknown = None;
        let mut ignore_unknown = false;
        for pair in text.split(';').filter(|pair| !pair.is_empty()) {
            let Some((key, value)) = pair.split_once('=') else {
                return Err(invalid("CNI_ARGS", &format!("`{pair}` has no `=`")));
            };
            match key {
                "IgnoreUnknown" => {
                    ignore_unknown = matches!(value, "1" | "t" | "T" | "true" | "True" | "TRUE");
                }
                "K8S_POD_NAMESPACE" => arguments.pod_namespace = Some(value.to_owned()),
                "K8S_POD_NAME" => arguments.pod_name = Some(value.to_owned()),
                "K8S_POD_UID" => {
                    arguments.pod_uid = is_uid(value).then(|| value.to_ascii_lowercase());
                }
                "K8S_POD_INFRA_CONTAINER_ID" => {}
                other => unknown = Some(other.to_owned()),
            }
        }
        match unknown {
            Some(key) if !ignore_unknown => {
                Err(invalid("CNI_ARGS", &format!("`{key}` is not known and IgnoreUnknown is off")))
            }
            _ => Ok(arguments),
        }
    }
}

/// 8-4-4-4-12 hexadecimal digits.
fn is_uid(text: &str) -> bool {
    let lengths = [8, 4, 4, 4, 12];
    let parts: Vec<&str> = text.split('-').collect();
    parts.len() == lengths.len()
        && parts.iter().zip(lengths).all(|(part, length)| {
            part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit())
        })
}

impl Attachment {
    pub(crate) fn parse(
        variable: impl Fn(&str) -> Option<String>,
        netns_required: bool,
    ) -> Result<Self, Error> {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let required = |name: &str| given(name).ok_or_else(|| invalid(name, "it is not set"));
        let container = required("CNI_CONTAINERID")?;
        if !container.starts_with(|c: char| c.is_ascii_alphanumeric())
            || !container.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
        {
            return Err(invalid(
                "CNI_CONTAINERID",
                "it must start with a letter or digit and hold only those, `_`, `.` and `-`",
            ));
        }
        let interface = required("CNI_IFNAME")?;
        if interface.len() > INTERFACE_NAME_LIMIT
            || matches!(interface.as_str(), "." | "..")
            || interface.chars().any(|c| c == '/' || c == ':' || c.is_whitespace() || c == '\0')
        {
            return Err(invalid("CNI_IFNAME", "it is no usable interface name (1 to 15 bytes)"));
        }
        let netns = given("CNI_NETNS").map(PathBuf::from);
        if netns_required && netns.is_none() {
            return Err(invalid("CNI_NETNS", "it is not set"));
        }
        let arguments = Arguments::parse(&given("CNI_ARGS").unwrap_or_default())?;
        Ok(Self { container, interface, netns, arguments })
    }
}

fn invalid(name: &str, reason: &str) -> Error {
    Error::new(
        Code::InvalidEnvironment,
        format!("environment variable {name}: {reason}"),
        "the container runtime sets these; a person can use `cnitool`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Attachment, Error> {
        let find = |name: &str| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        };
        Attachment::parse(find, false)
    }

    #[test]
    fn arguments_respect_ignore_unknown() {
        let base = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")];
        let with = |args| parse(&[base[0], base[1], ("CNI_ARGS", args)]);
        let known = with("IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;X=y").unwrap();
        assert_eq!(known.arguments.workload(), "shop/web");
        let uid = |args| with(args).unwrap().arguments.pod_uid;
        let real = uid("K8S_POD_UID=0a1b2c3d-0000-4000-8000-00000000000F");
        assert_eq!(real.unwrap(), "0a1b2c3d-0000-4000-8000-00000000000f");
        // A static pod's is a hash.
        assert_eq!(uid("K8S_POD_UID=0a1b2c3d00004000800000000000000f"), None);
        assert_eq!(with("X=y").unwrap_err().code, Code::InvalidEnvironment);
        assert_eq!(with("broken").unwrap_err().code, Code::InvalidEnvironment);
    }

    #[test]
    fn names_are_checked() {
        for (container, interface) in [
            ("", "eth0"),
            ("-c", "eth0"),
            ("a/b", "eth0"),
            ("c", "eth0/1"),
            ("c", "a23456789abcdefg"),
        ] {
            let error = parse(&[("CNI_CONTAINERID", container), ("CNI_IFNAME", interface)]);
            assert_eq!(error.unwrap_err().code, Code::InvalidEnvironment);
        }
    }
}
