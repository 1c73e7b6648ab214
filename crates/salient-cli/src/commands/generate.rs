//! `salient generate`: an answer, and what it took.

use std::io::Write;

use indicatif::HumanBytes;
use salient::schedule::Plan;
use salient_candle::scorer::{Position, Scorer};
use salient_candle::{GenerateOptions, Generation, Loaded, Sampling};
use salient_lab::{interrupt, output};
use serde::Serialize;

use super::device::DeviceArguments;
use super::model::{ModelArguments, PromptArguments, PruneArguments, Pruning};
use super::{figures_row, table};
use crate::Global;

/// Answer a prompt, dropping the tokens that do not matter on the way up the layers.
///
/// Prints the answer as it comes, then what the prefill kept and took. Prompts of fewer than 64
/// tokens are not pruned: pruning is known to pay from there on. --crossover sets another length.
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
    /// The most tokens to generate.
    #[arg(long, value_name = "N", default_value_t = 128)]
    max_tokens: usize,
    /// Divides the logits; 0 takes the most likely token.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Sample from the smallest set of tokens whose probability reaches this.
    #[arg(long, value_name = "P")]
    top_p: Option<f64>,
    /// Same seed, same answer.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Answer without pruning first, and show the figures beside each other.
    #[arg(long)]
    compare: bool,
}

/// One answer and its figures.
#[derive(Serialize)]
struct Answer {
    text: String,
    tokens: usize,
    stopped: bool,
    schedule: String,
    scorer: Option<String>,
    /// Prompt tokens alive in every layer.
    tokens_per_layer: Vec<usize>,
    stages: Vec<StageFigures>,
    work: f64,
    prefill_seconds: f64,
    pruning_seconds: f64,
    first_token_seconds: f64,
    decode_tokens_per_second: f64,
    kv_bytes: usize,
    kv_allocated_bytes: usize,
}

#[derive(Serialize)]
struct StageFigures {
    layer: usize,
    incoming: usize,
    kept: usize,
}

#[derive(Serialize)]
struct Document {
    model: String,
    device: String,
    dtype: &'static str,
    prompt_tokens: usize,
    /// Shorter prompts are not pruned.
    crossover: usize,
    dense: Option<Answer>,
    pruned: Answer,
    /// What the operation counts of the prefills allow.
    speedup_bound: f64,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<()> {
    let place = arguments.device.open(global)?;
    let loaded = arguments.model.load(&place, global)?;
    let prompt = arguments.prompt.tokens(&loaded)?;
    let layers = loaded.model.config().layers;
    let Pruning { schedule, name, mut scorer } =
        arguments.prune.resolve_what_pays(&loaded.model)?;
    let plan = schedule.plan(&[prompt.len()], layers)?;
    let options = GenerateOptions {
        max_tokens: arguments.max_tokens,
        stop: loaded.tokenizer.stop().to_vec(),
        sampling: Sampling {
            temperature: arguments.temperature,
            top_p: arguments.top_p,
            seed: arguments.seed,
        },
    };
    let show = |heading: &str| -> anyhow::Result<()> {
        if arguments.compare && !global.json {
            writeln!(output::stdout(), "{heading}")?;
        }
        Ok(())
    };
    let dense = if arguments.compare {
        show("dense:")?;
        let plan = plan.dense();
        let run = answer(&loaded, &prompt, &plan, &mut Position, &options, global)?;
        Some(figures(run, &plan, "dense".into(), None))
    } else {
        None
    };
    show("\npruned:")?;
    let run = answer(&loaded, &prompt, &plan, scorer.as_mut(), &options, global)?;
    let document = Document {
        model: arguments.model.model.clone(),
        device: place.name,
        dtype: place.dtype.as_str(),
        prompt_tokens: prompt.len(),
        crossover: schedule.crossover,
        dense,
        pruned: figures(run, &plan, schedule.to_string(), Some(name.to_string())),
        speedup_bound: salient::cost::speedup_bound(&loaded.model.config().shape(), &plan)?,
    };
    if global.json {
        return super::print_json(&document);
    }
    print(&document)
}

/// An answer's text, and how it came about.
struct Run {
    text: String,
    generation: Generation,
    stopped: bool,
}

/// Generates, and streams the text to standard output unless it will be a JSON document.
fn answer(
    loaded: &Loaded,
    prompt: &[u32],
    plan: &Plan,
    scorer: &mut dyn Scorer,
    options: &GenerateOptions,
    global: &Global,
) -> anyhow::Result<Run> {
    let mut stream = loaded.tokenizer.stream();
    let mut text = String::new();
    let mut failure = None;
    let spinner = output::spinner(global.quiet, format!("reading {} tokens", prompt.len()));
    let mut show = |token: u32| -> anyhow::Result<()> {
        spinner.finish_and_clear();
        let fresh = stream.push(token)?;
        if !global.json {
            let mut out = output::stdout();
            write!(out, "{fresh}")?;
            out.flush()?;
        }
        text.push_str(&fresh);
        Ok(interrupt::check()?)
    };
    let generation = salient_candle::generate(
        &loaded.model,
        &[prompt.to_vec()],
        plan,
        scorer,
        options,
        |_, token| match show(token) {
            Ok(()) => true,
            Err(error) => {
                failure = Some(error);
                false
            }
        },
    )?;
    spinner.finish_and_clear();
    if let Some(error) = failure {
        return Err(error);
    }
    if !global.json {
        writeln!(output::stdout())?;
    }
    let stopped = generation.tokens[0].len() < options.max_tokens;
    Ok(Run { text, generation, stopped })
}

fn figures(run: Run, plan: &Plan, schedule: String, scorer: Option<String>) -> Answer {
    let Run { text, generation, stopped } = run;
    let prefill = &generation.prefill;
    Answer {
        text,
        tokens: generation.tokens[0].len(),
        stopped,
        schedule,
        scorer,
        tokens_per_layer: plan.tokens_per_layer(),
        stages: prefill
            .stages
            .iter()
            .map(|stage| StageFigures {
                layer: stage.layer,
                incoming: stage.incoming.total(),
                kept: stage.kept.total(),
            })
            .collect(),
        work: plan.work(),
        prefill_seconds: prefill.elapsed.as_secs_f64(),
        pruning_seconds: prefill.pruning_time().as_secs_f64(),
        first_token_seconds: generation.first_token.as_secs_f64(),
        decode_tokens_per_second: generation.steps_per_second(),
        kv_bytes: prefill.cache.bytes(),
        kv_allocated_bytes: prefill.cache.allocated_bytes(),
    }
}

fn print(document: &Document) -> anyhow::Result<()> {
    let mut out = output::stdout();
    let Document { device, dtype, prompt_tokens, .. } = document;
    writeln!(out, "\n{prompt_tokens} prompt tokens, on {device} in {dtype}")?;
    let pruned = &document.pruned;
    if document.prompt_tokens < document.crossover {
        let crossover = document.crossover;
        writeln!(out, "not pruned: below the crossover of {crossover} tokens (--crossover)")?;
    }
    if !pruned.stages.is_empty() {
        let mut stages = table(&["stage", "layer", "tokens in", "kept", "of prompt"]);
        for (i, stage) in pruned.stages.iter().enumerate() {
            let share = stage.kept as f64 / document.prompt_tokens as f64;
            stages.add_row(figures_row(&[
                (i + 1).to_string(),
                stage.layer.to_string(),
                stage.incoming.to_string(),
                stage.kept.to_string(),
                format!("{:.1}%", 100.0 * share),
            ]));
        }
        writeln!(out, "{stages}")?;
    }
    let dense = document.dense.as_ref();
    let mut header = vec!["", "pruned"];
    if dense.is_some() {
        header = vec!["", "dense", "pruned", "ratio"];
    }
    let mut summary = table(&header);
    let seconds = |s: f64| format!("{:.3} s", s);
    let bytes = |b: f64| HumanBytes(b as u64).to_string();
    let mut row =
        |name: &str, of: &dyn Fn(&Answer) -> f64, show: &dyn Fn(f64) -> String, up: bool| {
            let mut cells = vec![name.to_owned()];
            cells.extend(dense.map(|dense| show(of(dense))));
            cells.push(show(of(pruned)));
            if let Some(dense) = dense {
                let (better, worse) = if up { (pruned, dense) } else { (dense, pruned) };
                let ratio = of(better) / of(worse);
                cells.push(if ratio.is_finite() { format!("{ratio:.2}x") } else { String::new() });
            }
            summary.add_row(figures_row(&cells));
        };
    row("mean share of tokens per layer", &|a| a.work, &|v| format!("{:.1}%", 100.0 * v), false);
    row("prefill", &|a| a.prefill_seconds, &seconds, false);
    row("  of it score, select, compact", &|a| a.pruning_seconds, &seconds, false);
    row("first token", &|a| a.first_token_seconds, &seconds, false);
    row("decode, tokens/s", &|a| a.decode_tokens_per_second, &|v| format!("{v:.1}"), true);
    row("KV cache", &|a| a.kv_bytes as f64, &bytes, false);
    writeln!(out, "{summary}")?;
    writeln!(out, "operation count allows {:.2}x in prefill", document.speedup_bound)?;
    Ok(())
}
