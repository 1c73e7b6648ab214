//! The `salient` command.
#![forbid(unsafe_code)]

mod commands;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use clap::builder::Styles;
use clap::{ArgAction, Args, Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use commands::{bench, eval, fetch, generate, inspect, train};
use salient_lab::{Error, interrupt, output};

/// Long prompts made cheap: drop the tokens that do not matter, and look at what was kept.
#[derive(Parser)]
#[command(name = "salient", version, styles = STYLES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command listens to.
#[derive(Args)]
struct Global {
    /// Print one JSON document on standard output, for machines.
    #[arg(long, global = true)]
    json: bool,
    /// Show no progress and no remarks; errors are still shown.
    #[arg(short, long, global = true)]
    quiet: bool,
    /// Say more on standard error; again for yet more (SALIENT_LOG overrides).
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    verbose: u8,
}

#[derive(Subcommand)]
enum Command {
    Generate(generate::Arguments),
    Inspect(inspect::Arguments),
    Eval(eval::Arguments),
    Bench(bench::Arguments),
    Train(train::Arguments),
    Fetch(fetch::Arguments),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging(&cli.global);
    let ended =
        interrupt::install().map_err(anyhow::Error::from).and_then(|()| match cli.command {
            Command::Generate(arguments) => generate::run(&arguments, &cli.global),
            Command::Inspect(arguments) => inspect::run(&arguments, &cli.global),
            Command::Eval(arguments) => eval::run(&arguments, &cli.global),
            Command::Bench(arguments) => bench::run(&arguments, &cli.global),
            Command::Train(arguments) => train::run(&arguments, &cli.global),
            Command::Fetch(arguments) => fetch::run(&arguments, &cli.global),
        });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => end(&error),
    }
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

fn start_logging(global: &Global) {
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        (_, 0) => "warn",
        (_, 1) => "warn,salient=info,salient_lab=info,salient_candle=info",
        (_, 2) => "info,salient=debug,salient_lab=debug,salient_candle=debug",
        _ => "trace",
    };
    let filter = EnvFilter::try_from_env("SALIENT_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colour = anstream::AutoStream::choice(&io::stderr()) != anstream::ColorChoice::Never;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(colour && io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
}

/// Says what went wrong, one cause a line, and chooses the exit code.
fn end(error: &anyhow::Error) -> ExitCode {
    let of_kind = |kind| {
        error.chain().any(|cause| {
            cause.downcast_ref::<io::Error>().is_some_and(|cause| cause.kind() == kind)
        })
    };
    // The reader of our output has seen enough.
    if of_kind(io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    let red = Style::new().bold().fg_color(Some(AnsiColor::Red.into()));
    output::note(format_args!("{red}error{red:#}: {error}"));
    for cause in error.chain().skip(1) {
        output::note(format_args!("  caused by: {cause}"));
    }
    match error.downcast_ref::<Error>() {
        Some(Error::Interrupted) => ExitCode::from(interrupt::EXIT_CODE),
        Some(Error::Usage(_) | Error::Unknown { .. } | Error::UnknownModel { .. }) => {
            ExitCode::from(2)
        }
        _ => ExitCode::FAILURE,
    }
}
