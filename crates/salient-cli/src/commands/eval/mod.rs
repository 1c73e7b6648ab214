//! `salient eval`: what pruning costs in quality, against the dense run of the same items.

pub(super) mod items;
mod run;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::ValueEnum;
use salient::schedule::{Schedule, Stages};
use salient_candle::scorer::Scorer;
use salient_candle::{Loaded, Model, Preset};
use salient_lab::corpus::Split;
use salient_lab::eval::summary::{self, MEASURES};
use salient_lab::eval::{
    CONTINUATION, DENSE, Item, Key, ModelId, Outcome, Placement, Results, Row, Settings, Summary,
    Task,
};
use salient_lab::fetch::{self, Cache};
use salient_lab::machine::Machine;
use salient_lab::stats::Estimate;
use salient_lab::{Error, interrupt, output, plot};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::device::DeviceArguments;
use super::model::{CrossoverArgument, ModelArguments};
use super::scorers::ScorerName;
use super::{figures_row, table};
use crate::Global;
use items::Source;
use run::Runner;

/// Measure what pruning costs in quality, against the dense run of the same items.
///
/// Every result is kept in the folder of --out at once: after an interruption the same command goes
/// on where it ended, and with more items, scorers or schedules only what is new is run.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// What the model is asked to do; may be repeated [default: all whose texts are in the cache].
    #[arg(long = "task", value_name = "TASK")]
    tasks: Vec<Task>,
    /// What matters, as for `generate`; may be repeated [default: last-query:max:17,
    /// last-query:mean, window-32:mean, key-norm, random, sinks+recent; for smollm2 salient too].
    #[arg(long = "scorer", value_name = "SCORER")]
    scorers: Vec<ScorerName>,
    /// When and how much, as for `generate`; may be repeated [default: `salient` for smollm2, else
    /// `late`].
    #[arg(long = "schedule", value_name = "SCHEDULE")]
    schedules: Vec<Schedule>,
    #[command(flatten)]
    crossover: CrossoverArgument,
    #[command(flatten)]
    device: DeviceArguments,
    /// Also the schedule target:14:2:8:RATIO, which keeps this fraction of the prompt in the end;
    /// may be repeated.
    #[arg(long = "ratio", value_name = "RATIO")]
    ratios: Vec<f64>,
    /// Items per task, length and placement of the question.
    #[arg(long, value_name = "N", default_value_t = 20)]
    items: usize,
    /// Tokens of a whole prompt; several with commas. HotpotQA's are as long as they are.
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "1024")]
    length: Vec<usize>,
    /// How far into the text needles lie, in percent; the items take them in turn.
    #[arg(
        long,
        value_name = "PERCENT,...",
        value_delimiter = ',',
        default_value = "10,30,50,70,90"
    )]
    depths: Vec<f64>,
    /// Where the questions of needle, hotpotqa and squad stand; several with commas.
    #[arg(
        long = "question",
        value_name = "PLACEMENT,...",
        value_delimiter = ',',
        default_value = "last"
    )]
    questions: Vec<Placement>,
    /// The part of the texts that items are of.
    #[arg(long, value_name = "SPLIT", default_value = "report")]
    split: Split,
    /// Same seed, same items.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// Where results.jsonl, results.csv, results.json and the charts go.
    #[arg(long, value_name = "FOLDER", default_value = "salient-eval")]
    out: PathBuf,
    /// Measure nothing: draw the charts of the rows of a file such as results.json.
    #[arg(long, value_name = "FILE")]
    draw: Option<PathBuf>,
}

/// How a prompt is pruned, and what results call it.
struct Pruning {
    name: ScorerName,
    scorer: String,
    schedule: Schedule,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<()> {
    if let Some(path) = &arguments.draw {
        return draw(path, &arguments.out);
    }
    let settings = settings(arguments)?;
    let items = settings.plan()?;
    let prunings = prunings(arguments)?;
    let model_path = arguments.model.path(global)?;
    for task in &settings.tasks {
        fetch::resolve(task.asset())?;
    }
    let out = &arguments.out;
    fs::create_dir_all(out).map_err(|e| Error::write(out, e))?;
    output::check_writable(out.join("results.json"))?;
    let place = arguments.device.open(global)?;
    let model = ModelId::of(&model_path)?.run_on(&place.name, place.dtype.as_str());
    let mut results = Results::open(out.join("results.jsonl"), model.clone())?;
    if results.dropped_bytes() > 0 && !global.quiet {
        let bytes = results.dropped_bytes();
        output::note(format_args!("dropped a half-written last line of results ({bytes} bytes)"));
    }

    let runs = 1 + prunings.len();
    let missing: usize =
        items.iter().map(|item| missing(&results, &settings, item, &prunings)).sum();
    if missing > 0 {
        let done = items.len() * runs - missing;
        if done > 0 && !global.quiet {
            output::note(format_args!("{done} of {} results are there already", done + missing));
        }
        let loaded = arguments.model.load_from(&model_path, &place, global)?;
        check(&loaded.model, &settings, &prunings)?;
        measure(&loaded, &settings, &items, &prunings, &mut results, global)?;
    }

    let rows =
        summary::rows(items.iter().flat_map(|item| keys(&settings, item, &prunings)).map(|key| {
            let outcome = results.get(&key).expect("what was missing has been measured");
            (key, outcome)
        }))?;
    let version = env!("CARGO_PKG_VERSION");
    let (device, dtype, machine) = (place.name, place.dtype.as_str(), Machine::this());
    let summary = Summary { version, model, device, dtype, machine, settings, rows };
    output::write_whole(out.join("results.csv"), summary::csv(&summary.rows))?;
    let json = serde_json::to_string_pretty(&summary)? + "\n";
    output::write_whole(out.join("results.json"), json)?;
    write_charts(&summary.rows, out)?;
    if global.json {
        return super::print_json(&summary);
    }
    print(&summary)?;
    if !global.quiet {
        output::note(format_args!("wrote results and charts to {}", out.display()));
    }
    Ok(())
}

/// The charts of rows that were measured before.
fn draw(path: &Path, out: &Path) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Rows {
        rows: Vec<Row>,
    }
    let bytes = fs::read(path).map_err(|e| Error::read(path, e))?;
    let Rows { mut rows } = serde_json::from_slice(&bytes).map_err(|e| {
        let problem = format!("does not hold the rows of an evaluation: {e}");
        Error::Malformed { path: path.into(), problem }
    })?;
    rows.sort_by(Row::order);
    fs::create_dir_all(out).map_err(|e| Error::write(out, e))?;
    write_charts(&rows, out)
}

fn write_charts(rows: &[Row], out: &Path) -> anyhow::Result<()> {
    for (name, chart, series) in summary::charts(rows) {
        plot::line_chart(out.join(name), &chart, &series)?;
    }
    Ok(())
}

fn settings(arguments: &Arguments) -> anyhow::Result<Settings> {
    let mut tasks = arguments.tasks.clone();
    if tasks.is_empty() {
        let cache = Cache::open()?;
        let all = Task::value_variants().iter().copied();
        // Missing texts are left out; damaged ones are an error like any other's.
        for task in all {
            match cache.resolve(task.asset()) {
                Ok(_) => tasks.push(task),
                Err(Error::NotCached { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if tasks.is_empty() {
            return Err(cache.resolve(Task::Needle.asset()).unwrap_err().into());
        }
    }
    Ok(Settings {
        tasks: unique(tasks),
        items: arguments.items,
        lengths: unique(arguments.length.clone()),
        // Short decimals come back from the file as they were.
        depths: unique(arguments.depths.iter().map(|depth| (depth * 1e6).round() / 1e6).collect()),
        seed: arguments.seed,
        questions: unique(arguments.questions.clone()),
        split: arguments.split,
    })
}

/// Every scorer with every schedule, each pair once.
fn prunings(arguments: &Arguments) -> anyhow::Result<Vec<Pruning>> {
    let later = |question: &Placement| *question == Placement::Later;
    let mut presets = Vec::new();
    // By name, since nothing may be left to run that the model would have to be loaded for.
    if arguments.model.model == "smollm2" {
        if !arguments.questions.iter().all(later) {
            presets.push(Preset::Salient);
        }
        if arguments.questions.iter().any(later) {
            presets.push(Preset::SalientAgnostic);
        }
    }
    let mut schedules = arguments.schedules.clone();
    if schedules.is_empty() {
        schedules.extend(presets.iter().map(|preset| preset.schedule()));
    }
    if schedules.is_empty() {
        schedules.push(Schedule::late());
    }
    for ratio in &arguments.ratios {
        if !(*ratio > 0.0 && *ratio <= 1.0) {
            let problem = format!("--ratio {ratio}: must be above 0 and at most 1");
            return Err(Error::Usage(problem).into());
        }
        let stages = Stages::Target { start: 14, step: 2, stages: 8, ratio: *ratio };
        schedules.push(Schedule { stages, ..Schedule::late() });
    }
    let schedules = schedules.into_iter().map(|schedule| arguments.crossover.apply(schedule));
    let schedules = unique(schedules.collect());
    let mut scorers = arguments.scorers.clone();
    if scorers.is_empty() {
        let names = DEFAULT_SCORERS.map(|name| name.parse().map_err(Error::Usage));
        scorers = names.into_iter().collect::<Result<_, _>>()?;
        scorers.extend(presets.into_iter().map(ScorerName::Preset));
    }
    let mut prunings = Vec::new();
    for name in unique(scorers) {
        let scorer = identity(&name)?;
        for schedule in schedules.clone() {
            prunings.push(Pruning { name: name.clone(), scorer: scorer.clone(), schedule });
        }
    }
    Ok(prunings)
}

const DEFAULT_SCORERS: [&str; 6] = [
    "last-query:max:17",
    "last-query:mean",
    "window-32:mean",
    "key-norm",
    "random",
    "sinks+recent",
];

/// A scorer's name; for predictors with a hash of the file, which may be trained anew.
fn identity(name: &ScorerName) -> anyhow::Result<String> {
    let ScorerName::Predictor(path) = name else { return Ok(name.to_string()) };
    let hash = Sha256::digest(fs::read(path).map_err(|e| Error::read(path, e))?);
    Ok(format!("{name}#{}", base16ct::lower::encode_string(&hash[..4])))
}

/// What cannot work is found before the work begins.
fn check(model: &Model, settings: &Settings, prunings: &[Pruning]) -> anyhow::Result<()> {
    let config = model.config();
    for &length in &settings.lengths {
        for task in settings.tasks.iter().filter(|task| **task != Task::Hotpotqa) {
            let needed = length + task.reserve();
            if needed > config.context {
                return Err(Error::Usage(format!(
                    "--length {length}: {task} needs {needed} tokens, but the model's context has {}",
                    config.context
                ))
                .into());
            }
        }
        for pruning in prunings {
            pruning
                .schedule
                .plan(&[length], config.layers)
                .with_context(|| format!("the schedule {} does not fit", pruning.schedule))?;
        }
    }
    Ok(())
}

/// The keys of an item's runs, dense first.
fn keys(settings: &Settings, item: &Item, prunings: &[Pruning]) -> Vec<Key> {
    let pruned = prunings.iter().map(|p| settings.key(item, &p.scorer, &p.schedule.to_string()));
    std::iter::once(settings.key(item, DENSE, DENSE)).chain(pruned).collect()
}

fn missing(results: &Results, settings: &Settings, item: &Item, prunings: &[Pruning]) -> usize {
    keys(settings, item, prunings).iter().filter(|key| results.get(key).is_none()).count()
}

/// Runs whatever is missing.
fn measure(
    loaded: &Loaded,
    settings: &Settings,
    items: &[Item],
    prunings: &[Pruning],
    results: &mut Results,
    global: &Global,
) -> anyhow::Result<()> {
    let mut scorers: Vec<Box<dyn Scorer>> = prunings
        .iter()
        .map(|p| p.name.build(&loaded.model, std::slice::from_ref(&p.schedule)))
        .collect::<anyhow::Result<_>>()?;
    let total = (items.len() * (1 + prunings.len())) as u64;
    let bar = output::progress(global.quiet, total, "");
    for task in items.chunk_by(|a, b| a.task == b.task) {
        let name = task[0].task;
        bar.set_message(name.to_string());
        if task.iter().all(|item| missing(results, settings, item, prunings) == 0) {
            bar.inc((task.len() * (1 + prunings.len())) as u64);
            continue;
        }
        let source = Source::open(name, loaded, settings)?;
        for item in task {
            let keys = keys(settings, item, prunings);
            let missing = keys.iter().filter(|key| results.get(key).is_none()).count();
            bar.inc((keys.len() - missing) as u64);
            if missing == 0 {
                continue;
            }
            interrupt::check()?;
            let posed = source
                .pose(item)
                .with_context(|| format!("cannot make item {} of {name}", item.index))?;
            let mut runner = Runner::new(loaded, &posed);
            for (run, key) in keys.into_iter().enumerate() {
                if results.get(&key).is_some() {
                    continue;
                }
                interrupt::check()?;
                let outcome: anyhow::Result<Outcome> = match run.checked_sub(1) {
                    None => runner.dense(),
                    Some(pruned) => {
                        runner.pruned(&prunings[pruned].schedule, scorers[pruned].as_mut())
                    }
                };
                let outcome = outcome.with_context(|| {
                    format!("item {} of {name} with {}, {}", item.index, key.scorer, key.schedule)
                })?;
                results.push(key, outcome)?;
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// A table per task, length and placement, with the figures that any of its rows has.
fn print(summary: &Summary) -> anyhow::Result<()> {
    let mut out = output::stdout();
    for group in summary.rows.chunk_by(Row::same_items) {
        writeln!(out, "{}", heading(&group[0]))?;
        let measures: Vec<_> =
            MEASURES.into_iter().filter(|(_, of)| group.iter().any(|r| of(r).is_some())).collect();
        let mut header =
            vec!["scorer", "schedule", "work", "kept", "flops_saved", "kv_kept", "speedup"];
        header.extend(measures.iter().map(|(name, _)| *name));
        let mut table = table(&header);
        for row in group {
            let percent = |share: f64| format!("{:.1}%", 100.0 * share);
            let mut cells = vec![
                row.scorer.clone(),
                row.schedule.clone(),
                percent(row.work),
                percent(row.final_keep),
                percent(row.flops_saved),
                percent(row.kv_kept),
                format!("{:.2}x", row.speedup),
            ];
            cells.extend(measures.iter().map(|(_, of)| of(row).map(figure).unwrap_or_default()));
            table.add_row(figures_row(&cells));
        }
        writeln!(out, "{table}\n")?;
    }
    writeln!(out, "on {} in {}", summary.device, summary.dtype)?;
    writeln!(out, "means with 95% intervals; losses in nats per token, KL(dense || pruned)")?;
    Ok(())
}

fn heading(row: &Row) -> String {
    let what = match row.task {
        Task::Needle => "a number hidden in essays".to_owned(),
        Task::Hotpotqa => "answers from ten paragraphs; survival of the supporting facts".into(),
        Task::Squad => "answers from a paragraph among others; survival of that paragraph".into(),
        Task::Continuation => format!("the next {CONTINUATION} tokens of essays"),
    };
    let question = row.question.map(|question| format!(", question {question}"));
    let question = question.unwrap_or_default();
    format!(
        "{}: {what}; {} items, {:.0} tokens prefilled{question}",
        row.task, row.items, row.prompt_tokens
    )
}

fn figure(estimate: Estimate) -> String {
    let Estimate { mean, low, high, .. } = estimate;
    format!("{mean:.3} [{low:.3}, {high:.3}]")
}

/// Without what came before, in order.
fn unique<T: PartialEq>(values: Vec<T>) -> Vec<T> {
    let mut unique = Vec::with_capacity(values.len());
    for value in values {
        if !unique.contains(&value) {
            unique.push(value);
        }
    }
    unique
}
