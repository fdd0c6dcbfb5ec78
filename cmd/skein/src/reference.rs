//! docs/cli.md, from the grammar. A test holds the two together.

use crate::cli::Cli;
use clap::{Arg, Command, CommandFactory};

/// The whole reference.
pub(crate) fn markdown() -> String {
    let mut root = Cli::command().term_width(100);
    root.build();
    let mut text = String::from(
        "# The `skein` command\n\n\
         Printed by `skein generate-docs`; `skein COMMAND --help` shows the same.\n\n",
    );
    text.push_str(&about(&root));
    text.push_str("\n## Commands\n\n| command | what it does |\n|---|---|\n");
    for command in visible(&root) {
        let name = command.get_name();
        let line = command.get_about().map(ToString::to_string).unwrap_or_default();
        text.push_str(&format!("| [`skein {name}`](#skein-{name}) | {line} |\n"));
    }
    text.push_str("\n## Global options\n\n");
    text.push_str(&options(&root, true));
    if let Some(after) = root.get_after_help() {
        text.push_str(&format!("\n```text\n{}\n```\n", after.to_string().trim_end()));
    }
    for command in visible(&root) {
        section(command, "skein", 2, &mut text);
    }
    text
}

fn section(command: &Command, path: &str, level: usize, text: &mut String) {
    let path = format!("{path} {}", command.get_name());
    text.push_str(&format!("\n{} {path}\n\n{}", "#".repeat(level), about(command)));
    let mut usage = path.clone();
    let own: Vec<&Arg> = own(command).collect();
    if own.iter().any(|arg| !arg.is_positional()) {
        usage.push_str(" [OPTIONS]");
    }
    for arg in own.iter().filter(|arg| arg.is_positional()) {
        usage.push_str(&format!(" {}", placeholder(arg)));
    }
    if command.has_subcommands() {
        usage.push_str(" COMMAND");
    }
    text.push_str(&format!("\n```text\n{usage}\n```\n"));
    if !own.is_empty() {
        text.push_str(&format!("\n{}", options(command, false)));
    }
    if let Some(after) = command.get_after_help() {
        text.push_str(&format!("\n```text\n{}\n```\n", after.to_string().trim_end()));
    }
    for sub in visible(command) {
        section(sub, &path, level + 1, text);
    }
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
}

/// Arguments that belong to this command alone.
fn own(command: &Command) -> impl Iterator<Item = &Arg> {
    let own =
        |arg: &&Arg| !arg.is_global_set() && !matches!(arg.get_id().as_str(), "help" | "version");
    command.get_arguments().filter(own)
}

fn about(command: &Command) -> String {
    let about = command.get_long_about().or_else(|| command.get_about());
    about.map(|about| format!("{}\n", about.to_string().trim_end())).unwrap_or_default()
}

fn options(command: &Command, global: bool) -> String {
    let mut text = String::from("| option | meaning |\n|---|---|\n");
    let chosen: Vec<&Arg> = if global {
        command.get_arguments().filter(|arg| arg.is_global_set()).collect()
    } else {
        own(command).collect()
    };
    for arg in chosen {
        let name = match (arg.get_short(), arg.get_long()) {
            (Some(short), Some(long)) => format!("-{short}, --{long}"),
            (None, Some(long)) => format!("--{long}"),
            (Some(short), None) => format!("-{short}"),
            (None, None) => placeholder(arg),
        };
        let value = if arg.is_positional() || !arg.get_action().takes_values() {
            String::new()
        } else {
            format!(" {}", value_name(arg))
        };
        let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let possible: Vec<String> =
            arg.get_possible_values().iter().map(|v| v.get_name().to_owned()).collect();
        if !possible.is_empty() && arg.get_action().takes_values() {
            help.push_str(&format!(" ({})", possible.join(", ")));
        }
        if let Some(variable) = arg.get_env() {
            help.push_str(&format!(" [variable: {}]", variable.to_string_lossy()));
        }
        let defaults: Vec<String> =
            arg.get_default_values().iter().map(|v| v.to_string_lossy().into_owned()).collect();
        if !defaults.is_empty() && arg.get_action().takes_values() {
            help.push_str(&format!(" [default: {}]", defaults.join(", ")));
        }
        text.push_str(&format!("| `{name}{value}` | {} |\n", help.replace('|', "\\|")));
    }
    text
}

fn value_name(arg: &Arg) -> String {
    arg.get_value_names()
        .and_then(|names| names.first())
        .map_or_else(String::new, ToString::to_string)
}

fn placeholder(arg: &Arg) -> String {
    let name = value_name(arg);
    let many = arg.get_num_args().is_some_and(|n| n.max_values() > 1);
    let text = if many { format!("{name}...") } else { name };
    if arg.is_required_set() { text } else { format!("[{text}]") }
}

#[cfg(test)]
mod tests {
    /// `skein generate-docs > docs/cli.md` makes it true again.
    #[test]
    fn the_reference_in_docs_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/cli.md");
        let written = std::fs::read_to_string(path).unwrap();
        assert!(
            written == super::markdown(),
            "run: cargo run -p skein -- generate-docs > docs/cli.md"
        );
    }
}
