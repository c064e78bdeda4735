//! `srchat doctor`: looks at everything that a session stands on, and says what to do.

mod checks;
mod resource;

use crate::args::Output;
use crate::cluster::Cluster;
use crate::failure::{Code, Failure};
use crate::print::Printer;
use serde::Serialize;

/// What one look found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    /// `None`: it could not be told.
    ok: Option<bool>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// Looks, in the order in which one thing stands on another, and stops where nothing more can be seen.
pub async fn doctor(cluster: &Cluster, output: Output, print: &Printer) -> Result<(), Failure> {
    let findings = checks::all(cluster, print).await;
    print.clear_progress();
    match output {
        Output::Json => print.json(&findings)?,
        Output::Text => {
            for finding in &findings {
                print.line(&line(finding))?;
            }
        }
    }
    let bad = findings.iter().filter(|f| f.ok == Some(false)).count();
    match bad {
        0 => Ok(()),
        1 => Err(Failure::new(
            Code::Error,
            "something is not as it should be",
        )),
        bad => Err(Failure::new(
            Code::Error,
            format!("{bad} things are not as they should be"),
        )),
    }
}

fn line(finding: &Finding) -> String {
    let Finding {
        check,
        ok,
        message,
        hint,
    } = finding;
    let mark = match ok {
        Some(true) => "ok",
        Some(false) => "no",
        None => "??",
    };
    let hint = hint.as_ref();
    let hint = hint.map_or_else(String::new, |hint| format!("\n               hint: {hint}"));
    format!("{mark}  {check:<10} {message}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_and_the_way_out_another() {
        let finding = Finding {
            check: "operator",
            ok: Some(false),
            message: "none has ever run".into(),
            hint: Some("install it".into()),
        };
        let expected = "no  operator   none has ever run\n               hint: install it";
        assert_eq!(line(&finding), expected);
    }
}
