//! The page about the arguments and environment variables of every program.

use super::markdown::{code, page as markdown_page, paragraph, table};
use clap::{Arg, Command};
use std::fmt::Write;

const INTRODUCTION: &str = "\
An argument on the command line overrides its environment variable. An argument that takes several values takes them \
separated by commas. `--help` prints the same texts.\n\n";

/// Describes the programs. A subcommand that an earlier program has, too, is described there only.
pub fn page(programs: &[Command]) -> String {
    let mut body = INTRODUCTION.to_owned();
    let mut described: Vec<String> = Vec::new();
    for program in programs {
        let mut program = program.clone();
        program.build();
        let _ = write!(body, "## {}\n\n{}\n\n", code(program.get_name()), about(&program));
        for command in program.get_subcommands().filter(|command| is_for_users(command)) {
            let name = command.get_name().to_owned();
            let title = code(&format!("{} {name}", program.get_name()));
            if described.contains(&name) {
                let _ = write!(
                    body,
                    "{title} takes the same arguments as {}.\n\n",
                    code(&format!("{} {name}", programs[0].get_name()))
                );
                continue;
            }
            let _ = write!(body, "### {title}\n\n{}\n\n{}", about(command), arguments(command));
            body.push_str(&examples(command));
            described.push(name);
        }
    }
    markdown_page("Arguments", &body)
}

fn is_for_users(command: &Command) -> bool {
    !command.is_hide_set() && command.get_name() != "help"
}

fn about(command: &Command) -> String {
    let about = command.get_long_about().or(command.get_about());
    sentence(&about.map(ToString::to_string).unwrap_or_default())
}

/// Clap drops the full stop at the end of a doc comment.
fn sentence(text: &str) -> String {
    let text = paragraph(text);
    let ends = text.is_empty() || text.ends_with(['.', '!', '?', ':']);
    if ends { text } else { text + "." }
}

fn arguments(command: &Command) -> String {
    let rows: Vec<_> = command
        .get_arguments()
        .filter(|argument| !argument.is_hide_set() && !["help", "version"].contains(&argument.get_id().as_str()))
        .map(row)
        .collect();
    table(&["argument", "environment", "default", "description"], &rows)
}

fn row(argument: &Arg) -> Vec<String> {
    let takes_value = argument.get_action().takes_values();
    let value = argument.get_value_names().unwrap_or_default().join(" ");
    let flag = match argument.get_long() {
        Some(long) if takes_value => format!("--{long} <{value}>"),
        Some(long) => format!("--{long}"),
        None => format!("<{value}>"),
    };
    let defaults: Vec<_> = argument
        .get_default_values()
        .iter()
        .map(|value| value.to_string_lossy())
        .collect();
    let default = match defaults.join(",") {
        _ if argument.is_required_set() => "required".to_owned(),
        default if takes_value => code(&default),
        _ => String::new(),
    };
    let mut help = argument
        .get_long_help()
        .or(argument.get_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    help = sentence(&help);
    let values: Vec<_> = argument
        .get_possible_values()
        .iter()
        .map(|value| code(value.get_name()))
        .collect();
    if takes_value && !values.is_empty() {
        let _ = write!(help, " One of {}.", values.join(", "));
    }
    let environment = argument
        .get_env()
        .map(|name| code(&name.to_string_lossy()))
        .unwrap_or_default();
    vec![code(&flag), environment, default, help]
}

/// The help text after the arguments shows examples, indented below a line that says so.
fn examples(command: &Command) -> String {
    let text = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let commands: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("  ")).collect();
    if commands.is_empty() {
        return String::new();
    }
    format!("```sh\n{}\n```\n\n", commands.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(name: &'static str) -> Command {
        Command::new(name).about("Runs").subcommand(
            Command::new("serve")
                .about("Serves requests")
                .after_help("Example:\n  it serve --port 1")
                .arg(
                    Arg::new("port")
                        .long("port")
                        .value_name("PORT")
                        .env("PORT")
                        .default_value("80")
                        .help("Port"),
                )
                .arg(Arg::new("secret").long("secret").hide(true)),
        )
    }

    #[test]
    fn arguments_come_with_their_variable_default_and_example() {
        let page = page(&[program("it")]);
        assert!(page.contains("### `it serve`\n\nServes requests.\n"), "{page}");
        assert!(page.contains("| `--port <PORT>` | `PORT` | `80` | Port. |"), "{page}");
        assert!(page.contains("```sh\nit serve --port 1\n```"), "{page}");
        assert!(!page.contains("secret") && !page.contains("--help <"), "{page}");
    }

    #[test]
    fn a_subcommand_of_two_programs_is_described_once() {
        let page = page(&[program("it"), program("small")]);
        assert!(
            page.contains("`small serve` takes the same arguments as `it serve`."),
            "{page}"
        );
        assert_eq!(page.matches("--port <PORT>").count(), 1, "{page}");
    }
}
