//! `skein status`: every role and node on one screen; the exit code says the same.

mod report;

use crate::api::Api;
use crate::cli::{Global, Output};
use crate::error::Error;
use crate::http::Endpoint;
use crate::screen::{Format, yaml};
use clap::Args;
use report::Answer;
pub(crate) use report::Report;

/// Arguments of `skein status`.
#[derive(Args, Debug)]
#[command(after_help = "\
Exit code: 0 everything is well; 1 degraded: a role is not ready, a node is not connected or reports
a problem; 2 the config API or the controller does not answer.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    output: Output,
}

pub(crate) async fn run(global: &Global, arguments: &Arguments) -> Result<(), Error> {
    let report = look(&global.api()?, &global.controller()?).await;
    let screen = global.screen();
    match arguments.output.format {
        Format::Json => screen.json(&report.to_json())?,
        Format::Yaml => screen.write(&yaml(&report.to_json())?)?,
        Format::Table | Format::Wide | Format::Name => screen.write(&report.render(screen))?,
    }
    report.verdict()
}

/// Asks every role.
pub(crate) async fn look(api: &Api, controller: &Endpoint) -> Report {
    let (api_state, controller_state) =
        futures_util::future::join(look_at_api(api), look_at_controller(controller)).await;
    Report {
        api_url: api.url().to_owned(),
        api: api_state,
        controller_url: controller.url().to_owned(),
        controller: controller_state,
    }
}

async fn look_at_api(api: &Api) -> Answer<String> {
    match api.probe("/readyz").await {
        Ok((true, _)) => Answer::Well(String::new()),
        Ok((false, reason)) => {
            Answer::Unwell(if reason.is_empty() { "not ready".to_owned() } else { reason })
        }
        Err(error) => Answer::Silent(explain(&error)),
    }
}

async fn look_at_controller(controller: &Endpoint) -> Answer<serde_json::Value> {
    match controller.get("/v1/status", &[]).await {
        Ok(value) => Answer::Well(value),
        Err(error @ (Error::Unreachable { .. } | Error::Untrusted { .. })) => {
            Answer::Silent(explain(&error))
        }
        Err(error) => Answer::Unwell(error.to_string()),
    }
}

fn explain(error: &Error) -> String {
    match error {
        Error::Unreachable { cause, next, .. } => format!("{cause}; {next}"),
        other => other.to_string(),
    }
}
