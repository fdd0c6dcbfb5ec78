//! `skein types`: the object types.

use crate::cli::Global;
use crate::error::Error;
use crate::kinds;
use crate::table::Table;
use clap::Args;
use skein_model::Kind;

/// Arguments of `skein types`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Lists every type, not only the networking core
    #[arg(long, short = 'a')]
    all: bool,
}

pub(crate) fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let mut table = Table::new(&["TYPE", "SHORT", "PARENT", "ABOUT"]);
    for kind in Kind::all().filter(|kind| arguments.all || kind.meta().tier == 1) {
        let parents: Vec<&str> = kind.meta().parents.iter().map(|p| p.name()).collect();
        table.row(vec![
            kind.name().into(),
            kinds::aliases(kind).collect::<Vec<_>>().join(",").into(),
            parents.join(",").into(),
            kind.meta().about.into(),
        ]);
    }
    let screen = global.screen();
    let mut text = table.render(screen);
    if !arguments.all {
        text.push_str("\n`skein types --all` lists more; `skein explain TYPE` tells the fields.\n");
    }
    screen.write(&text)
}
