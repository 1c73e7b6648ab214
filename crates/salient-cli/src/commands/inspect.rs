//! `salient inspect`: the document with every token coloured by the stage that dropped it.

use std::path::PathBuf;

use anstream::AutoStream;
use salient_candle::{Loaded, Prefill};
use salient_lab::picture::{Picture, Stage, Token};
use salient_lab::{html, output, terminal};

use super::device::DeviceArguments;
use super::model::{ModelArguments, PromptArguments, PruneArguments, Pruning};
use crate::Global;

/// Show which tokens of a prompt were kept, and which stage dropped the others.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    #[command(flatten)]
    prompt: PromptArguments,
    #[command(flatten)]
    prune: PruneArguments,
    #[command(flatten)]
    device: DeviceArguments,
    /// Write a page to this file instead of showing the text in the terminal.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<()> {
    if let Some(path) = &arguments.html {
        output::check_writable(path)?;
    }
    let place = arguments.device.open(global)?;
    let loaded = arguments.model.load(&place, global)?;
    let prompt = arguments.prompt.tokens(&loaded)?;
    let Pruning { schedule, name, mut scorer } = arguments.prune.resolve(&loaded.model)?;
    let plan = schedule.plan(&[prompt.len()], loaded.model.config().layers)?;
    let prompts = [prompt];
    let spinner = output::spinner(global.quiet, format!("reading {} tokens", prompts[0].len()));
    scorer.prepare(&loaded.model, &prompts, &plan)?;
    let prefill = loaded.model.prefill(&prompts, &plan, scorer.as_ref(), 0)?;
    spinner.finish_and_clear();

    let facts = [
        ("model", arguments.model.model.clone()),
        ("device", format!("{} in {}", place.name, place.dtype.as_str())),
        ("scorer", name.to_string()),
        ("schedule", schedule.to_string()),
        ("prompt", format!("{} tokens", prompts[0].len())),
        ("prefill", format!("{:.3} s", prefill.elapsed.as_secs_f64())),
    ];
    let picture = Picture {
        title: "What the model kept".to_owned(),
        question: arguments.prompt.question.clone(),
        answer: None,
        facts: facts.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        tokens: tokens(&loaded, &prompts[0], &prefill)?,
        stages: prefill
            .stages
            .iter()
            .map(|stage| Stage { layer: stage.layer, kept: stage.kept.total() })
            .collect(),
    };
    if global.json {
        super::print_json(&picture)?;
    }
    match &arguments.html {
        Some(path) => {
            output::write_whole(path, html::page(&picture)?)?;
            if !global.json && !global.quiet {
                output::note(format_args!("wrote {}", path.display()));
            }
        }
        None if !global.json => {
            let mut out = output::stdout();
            let colours = AutoStream::choice(&std::io::stdout()) != anstream::ColorChoice::Never;
            terminal::view(&picture, colours, &mut out)?;
        }
        None => {}
    }
    Ok(())
}

/// Every token with the stage that dropped it.
fn tokens(loaded: &Loaded, prompt: &[u32], prefill: &Prefill) -> anyhow::Result<Vec<Token>> {
    let mut tokens: Vec<Token> = loaded
        .tokenizer
        .pieces(prompt)?
        .into_iter()
        .map(|text| Token { text, ..Token::default() })
        .collect();
    for (index, stage) in prefill.stages.iter().enumerate() {
        let scores: Vec<f32> = stage.scores.to_vec1()?;
        for (position, score) in stage.incoming_positions.to_vec1::<u32>()?.into_iter().zip(scores)
        {
            let token = &mut tokens[position as usize];
            token.score = Some(score);
            token.dropped_by = Some(index);
        }
        for position in stage.kept_positions.to_vec1::<u32>()? {
            tokens[position as usize].dropped_by = None;
        }
    }
    Ok(tokens)
}
