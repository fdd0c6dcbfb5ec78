//! Runs CNI plugins as a container runtime does: environment, configuration on standard input,
//! the chain of plugins with each one's result handed to the next, and a cache of results.

use crate::{Host, LabError, command};
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Why a CNI call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CniError {
    /// The plugin answered with a CNI error object.
    #[error("{plugin} {command}: error {code}: {message} ({details})")]
    Plugin {
        /// Plugin binary.
        plugin: String,
        /// CNI_COMMAND.
        command: String,
        /// CNI error code.
        code: u64,
        /// What the plugin said.
        message: String,
        /// More of it.
        details: String,
    },
    /// The plugin broke the protocol.
    #[error("{plugin} {command} did not answer as the CNI specification says: {reason}")]
    Protocol {
        /// Plugin binary.
        plugin: String,
        /// CNI_COMMAND.
        command: String,
        /// How.
        reason: String,
    },
    /// The configuration list is not usable.
    #[error("network configuration: {0}")]
    Configuration(String),
    /// The lab failed underneath.
    #[error(transparent)]
    Lab(#[from] LabError),
}

/// One container's interface, the parameters of every call.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// CNI_CONTAINERID.
    pub container: String,
    /// CNI_NETNS; `None` after the namespace is gone.
    pub netns: Option<PathBuf>,
    /// CNI_IFNAME.
    pub interface: String,
    /// CNI_ARGS, "IgnoreUnknown=1;K8S_POD_NAME=web".
    pub args: String,
    /// `runtimeConfig` for plugins that announce the capability: `ips`, `mac`, `portMappings`.
    pub runtime: Map<String, Value>,
}

impl Attachment {
    /// An attachment of `container` as `eth0` in the namespace.
    #[must_use]
    pub fn new(container: &str, netns: &Path) -> Self {
        Self {
            container: container.to_owned(),
            netns: Some(netns.to_owned()),
            interface: "eth0".into(),
            args: String::new(),
            runtime: Map::new(),
        }
    }
}

/// A container runtime's CNI side on one host.
#[derive(Clone, Debug)]
pub struct CniRuntime {
    host: Host,
    plugin_directories: Vec<PathBuf>,
    list: Value,
    cache: PathBuf,
}

impl CniRuntime {
    /// A runtime with the network configuration list `list` (a `.conflist` file's content).
    ///
    /// # Errors
    /// The list has no name, version or plugins.
    pub fn new(host: &Host, plugin_directories: &[PathBuf], list: Value) -> Result<Self, CniError> {
        for field in ["cniVersion", "name", "plugins"] {
            if list.get(field).is_none() {
                return Err(CniError::Configuration(format!("`{field}` is missing")));
            }
        }
        let cache = host.directory().join("cni-cache");
        fs::create_dir_all(&cache).map_err(|source| LabError::File {
            action: "create",
            path: cache.clone(),
            source,
        })?;
        let plugin_directories = plugin_directories.to_vec();
        Ok(Self { host: host.clone(), plugin_directories, list, cache })
    }

    /// ADD: runs the chain and gives the last plugin's result, which is cached.
    ///
    /// # Errors
    /// The first plugin's error; as runtimes do, the caller then sends DEL.
    pub fn add(&self, attachment: &Attachment) -> Result<Value, CniError> {
        let mut previous: Option<Value> = None;
        for plugin in self.plugins()? {
            let config = self.config_for(plugin, previous.as_ref(), attachment);
            let answer = self.call("ADD", &config, Some(attachment))?;
            previous = Some(answer.ok_or_else(|| CniError::Protocol {
                plugin: text(&config, "type"),
                command: "ADD".into(),
                reason: "no result".into(),
            })?);
        }
        let result = previous.ok_or_else(|| CniError::Configuration("no plugins".into()))?;
        let path = self.cache_path(attachment);
        fs::write(&path, result.to_string()).map_err(|source| LabError::File {
            action: "write",
            path,
            source,
        })?;
        Ok(result)
    }

    /// Starts the chain's first ADD and kills the plugin after a while, as a runtime's crash or an impatient one does. True when it
    /// had ended by itself by then.
    ///
    /// # Errors
    /// The plugin could not be started.
    pub fn add_and_kill(&self, attachment: &Attachment, after: Duration) -> Result<bool, CniError> {
        let plugins = self.plugins()?;
        let plugin = plugins.first().ok_or_else(|| CniError::Configuration("no plugins".into()))?;
        let config = self.config_for(plugin, None, attachment);
        let mut process = self.process("ADD", &text(&config, "type"), Some(attachment))?;
        process.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command::spawn(Some(&self.host.path()), &mut process)?;
        let due = Instant::now() + after;
        if let Some(mut pipe) = child.stdin.take() {
            let _ = pipe.write_all(config.to_string().as_bytes());
        }
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let ended = matches!(child.try_wait(), Ok(Some(_)));
        let _ = child.kill();
        let _ = child.wait();
        Ok(ended)
    }

    /// CHECK with the cached result.
    ///
    /// # Errors
    /// The first plugin's error.
    pub fn check(&self, attachment: &Attachment) -> Result<(), CniError> {
        let previous = self.cached(attachment);
        for plugin in self.plugins()? {
            let config = self.config_for(plugin, previous.as_ref(), attachment);
            self.call("CHECK", &config, Some(attachment))?;
        }
        Ok(())
    }

    /// DEL: the chain in reverse order; the cache entry goes when all succeeded.
    ///
    /// # Errors
    /// The first plugin's error.
    pub fn del(&self, attachment: &Attachment) -> Result<(), CniError> {
        let previous = self.cached(attachment);
        for plugin in self.plugins()?.iter().rev() {
            let config = self.config_for(plugin, previous.as_ref(), attachment);
            self.call("DEL", &config, Some(attachment))?;
        }
        let _ = fs::remove_file(self.cache_path(attachment));
        Ok(())
    }

    /// STATUS of every plugin.
    ///
    /// # Errors
    /// The first plugin's error.
    pub fn status(&self) -> Result<(), CniError> {
        for plugin in self.plugins()? {
            self.call("STATUS", &self.config(plugin), None)?;
        }
        Ok(())
    }

    /// GC with the attachments that are still valid.
    ///
    /// # Errors
    /// The first plugin's error.
    pub fn gc(&self, valid: &[&Attachment]) -> Result<(), CniError> {
        let valid: Vec<Value> = valid
            .iter()
            .map(|one| json!({"containerID": one.container, "ifname": one.interface}))
            .collect();
        for plugin in self.plugins()? {
            let mut config = self.config(plugin);
            config["cni.dev/valid-attachments"] = Value::Array(valid.clone());
            self.call("GC", &config, None)?;
        }
        Ok(())
    }

    /// VERSION of every plugin of the chain.
    ///
    /// # Errors
    /// The first plugin's error.
    pub fn version(&self) -> Result<Vec<Value>, CniError> {
        self.plugins()?
            .iter()
            .filter_map(|plugin| self.call("VERSION", &self.config(plugin), None).transpose())
            .collect()
    }

    fn plugins(&self) -> Result<&Vec<Value>, CniError> {
        self.list["plugins"]
            .as_array()
            .ok_or_else(|| CniError::Configuration("`plugins` is no list".into()))
    }

    fn config(&self, plugin: &Value) -> Value {
        let mut config = plugin.clone();
        config["cniVersion"] = self.list["cniVersion"].clone();
        config["name"] = self.list["name"].clone();
        config
    }

    fn config_for(&self, plugin: &Value, previous: Option<&Value>, on: &Attachment) -> Value {
        let mut config = self.config(plugin);
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        let announced = config.get("capabilities").and_then(Value::as_object).cloned();
        let runtime: Map<String, Value> = on
            .runtime
            .iter()
            .filter(|(name, _)| {
                announced.as_ref().is_some_and(|known| known.get(*name) == Some(&Value::Bool(true)))
            })
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !runtime.is_empty() {
            config["runtimeConfig"] = Value::Object(runtime);
        }
        if let Some(object) = config.as_object_mut() {
            object.remove("capabilities");
        }
        config
    }

    /// The plugin with the environment of a call.
    fn process(
        &self,
        command: &str,
        plugin: &str,
        on: Option<&Attachment>,
    ) -> Result<Command, CniError> {
        let binary = self
            .plugin_directories
            .iter()
            .map(|directory| directory.join(plugin))
            .find(|candidate| candidate.is_file())
            .ok_or_else(|| CniError::Configuration(format!("no plugin binary `{plugin}`")))?;
        let mut process = Command::new(binary);
        process.env("CNI_COMMAND", command);
        let path = std::env::join_paths(&self.plugin_directories)
            .map_err(|error| CniError::Configuration(error.to_string()))?;
        process.env("CNI_PATH", path);
        if let Some(on) = on {
            process.env("CNI_CONTAINERID", &on.container).env("CNI_IFNAME", &on.interface);
            process.env("CNI_ARGS", &on.args);
            process.env("CNI_NETNS", on.netns.as_deref().unwrap_or(Path::new("")));
        }
        Ok(process)
    }

    fn call(
        &self,
        command: &str,
        config: &Value,
        on: Option<&Attachment>,
    ) -> Result<Option<Value>, CniError> {
        let plugin = text(config, "type");
        let mut process = self.process(command, &plugin, on)?;
        let ran = self.host.run_with_input(&mut process, config.to_string().as_bytes())?;
        let protocol = |reason: String| CniError::Protocol {
            plugin: plugin.clone(),
            command: command.to_owned(),
            reason,
        };
        let answer = if ran.stdout.trim().is_empty() {
            None
        } else {
            let parsed: Value = serde_json::from_str(&ran.stdout).map_err(|e| {
                protocol(format!("standard output is no JSON: {e}: {}", ran.stdout))
            })?;
            Some(parsed)
        };
        if ran.ok() {
            return Ok(answer);
        }
        let error = answer.ok_or_else(|| {
            protocol(format!("exit code {:?} without an error object; {}", ran.code, ran.stderr))
        })?;
        Err(CniError::Plugin {
            code: error["code"].as_u64().ok_or_else(|| protocol("error without a code".into()))?,
            message: text(&error, "msg"),
            details: text(&error, "details"),
            plugin,
            command: command.to_owned(),
        })
    }

    fn cache_path(&self, on: &Attachment) -> PathBuf {
        self.cache.join(format!("{}-{}-{}", text(&self.list, "name"), on.container, on.interface))
    }

    fn cached(&self, on: &Attachment) -> Option<Value> {
        serde_json::from_slice(&fs::read(self.cache_path(on)).ok()?).ok()
    }
}

fn text(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}
