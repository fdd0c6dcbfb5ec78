//! `skein completion`: scripts for shells.

use crate::cli::{Cli, Global};
use crate::error::Error;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Arguments of `skein completion`.
#[derive(Args, Debug)]
#[command(after_help = "\
Install it for your user:
  bash  skein completion bash > ~/.local/share/bash-completion/completions/skein
  zsh   skein completion zsh > \"${fpath[1]}/_skein\"
  fish  skein completion fish > ~/.config/fish/completions/skein.fish")]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), "skein", &mut script);
    global.screen().write(&String::from_utf8_lossy(&script))
}
