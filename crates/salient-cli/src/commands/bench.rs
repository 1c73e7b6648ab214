//! `salient bench`: prefill and decode, dense against pruned, by length and batch.

use std::path::PathBuf;

use comfy_table::Table;
use indicatif::HumanBytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use salient::schedule::{Plan, Schedule};
use salient_candle::scorer::{LastQuery, Position, Scorer};
use salient_candle::{Model, Preset};
use salient_lab::machine::{self, Machine};
use salient_lab::plot::{Axis, Chart, Point, Series};
use salient_lab::{Error, interrupt, output, plot};
use serde::Serialize;

use super::device::DeviceArguments;
use super::model::{CrossoverArgument, ModelArguments};
use super::scorers::ScorerName;
use super::{figures_row, table};
use crate::Global;

/// Time prefill and decode, dense and pruned, and set the speed-up beside what the operation count
/// allows.
///
/// Prompts are pseudo-random tokens: time does not depend on which. Dense and pruned runs take
/// turns, and the fastest of each counts, since machines are shared and noisy.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// Prompt lengths, in tokens.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1024, 2048, 4096])]
    length: Vec<usize>,
    /// Sequences at once.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1])]
    batch: Vec<usize>,
    /// Schedules beside the dense one; see `salient generate --help`.
    #[arg(long, value_name = "SCHEDULE", default_values = ["sdtp", "late", "salient"])]
    schedule: Vec<Schedule>,
    #[command(flatten)]
    crossover: CrossoverArgument,
    #[command(flatten)]
    device: DeviceArguments,
    /// What matters; see `salient generate --help` [default: `salient` where its predictors fit the
    /// model and the schedules, else last-query:max:17].
    #[arg(long, value_name = "SCORER")]
    scorer: Option<ScorerName>,
    /// Runs of each prefill.
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeat: usize,
    /// Decode steps after each prefill.
    #[arg(long, value_name = "N", default_value_t = 16)]
    decode: usize,
    /// Write a JSON record to this file.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Draw the speed-up by length into this SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// The record of a run.
#[derive(Serialize)]
struct Record {
    command: String,
    machine: Machine,
    model: String,
    device: String,
    dtype: &'static str,
    scorer: String,
    repeat: usize,
    rows: Vec<Row>,
}

/// One length, batch and schedule.
#[derive(Serialize)]
struct Row {
    length: usize,
    batch: usize,
    schedule: String,
    /// Mean share of tokens alive per layer.
    work: f64,
    /// Every run, in the order they were made.
    prefill_seconds: Vec<f64>,
    prefill_best: f64,
    /// Of the fastest run.
    pruning_seconds: f64,
    /// Of the fastest run.
    attention_seconds: f64,
    /// Dense over this, fastest runs.
    speedup: f64,
    /// Dense over this, by operation count.
    speedup_bound: f64,
    decode_seconds_per_step: Option<f64>,
    kv_bytes: usize,
    kv_allocated_bytes: usize,
    /// Peak memory of the process during the runs of this row, where the system tells; weights
    /// included.
    peak_rss_bytes: Option<u64>,
}

pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<()> {
    for (name, values) in [("--length", &arguments.length), ("--batch", &arguments.batch)] {
        if values.contains(&0) {
            return Err(Error::Usage(format!("{name} is 0: at least 1 is needed")).into());
        }
    }
    if arguments.repeat == 0 {
        return Err(Error::Usage("--repeat is 0: at least 1 is needed".into()).into());
    }
    for path in [&arguments.out, &arguments.plot].into_iter().flatten() {
        output::check_writable(path)?;
    }
    let place = arguments.device.open_to_measure(global)?;
    let loaded = arguments.model.load(&place, global)?;
    let model = &loaded.model;
    let (name, mut scorer) = scorer(arguments, model)?;
    let runs = arguments.length.len() * arguments.batch.len() * arguments.repeat;
    let bar =
        output::progress(global.quiet, (runs * (1 + arguments.schedule.len())) as u64, "bench");
    let mut rows = Vec::new();
    for &length in &arguments.length {
        for &batch in &arguments.batch {
            rows.extend(measure(model, scorer.as_mut(), length, batch, arguments, &bar)?);
        }
    }
    bar.finish_and_clear();
    let record = Record {
        command: machine::command_line(),
        machine: Machine::this(),
        model: arguments.model.model.clone(),
        device: place.name,
        dtype: place.dtype.as_str(),
        scorer: name.to_string(),
        repeat: arguments.repeat,
        rows,
    };
    if let Some(path) = &arguments.out {
        output::write_whole(path, serde_json::to_string_pretty(&record)? + "\n")?;
    }
    if let Some(path) = &arguments.plot {
        let (chart, series) = chart(&record);
        plot::line_chart(path, &chart, &series)?;
    }
    if global.json {
        return super::print_json(&record);
    }
    print(&record)
}

/// What matters, and its name.
fn scorer(arguments: &Arguments, model: &Model) -> anyhow::Result<(ScorerName, Box<dyn Scorer>)> {
    let schedules = &arguments.schedule;
    if let Some(name) = &arguments.scorer {
        return Ok((name.clone(), name.build(model, schedules)?));
    }
    match Preset::Salient.scorer(model, schedules) {
        Ok(scorer) => return Ok((ScorerName::Preset(Preset::Salient), scorer)),
        Err(
            salient_candle::Error::OtherModel { .. } | salient_candle::Error::OtherSchedule { .. },
        ) => {}
        Err(error) => return Err(error.into()),
    }
    let name = ScorerName::LastQuery(LastQuery::default().rule);
    let scorer = name.build(model, schedules)?;
    Ok((name, scorer))
}

/// The dense row and one per schedule.
fn measure(
    model: &Model,
    scorer: &mut dyn Scorer,
    length: usize,
    batch: usize,
    arguments: &Arguments,
    bar: &indicatif::ProgressBar,
) -> anyhow::Result<Vec<Row>> {
    let mut rng = ChaCha8Rng::seed_from_u64(length as u64);
    let vocab = model.config().vocab as u32;
    let prompts: Vec<Vec<u32>> =
        (0..batch).map(|_| (0..length).map(|_| rng.random_range(0..vocab)).collect()).collect();
    let lens = vec![length; batch];
    let mut plans =
        vec![("dense".to_owned(), Schedule::dense().plan(&lens, model.config().layers)?)];
    for schedule in &arguments.schedule {
        let schedule = arguments.crossover.apply(schedule.clone());
        plans.push((schedule.to_string(), schedule.plan(&lens, model.config().layers)?));
    }
    let mut rows = Vec::new();
    for (name, plan) in &plans {
        rows.push(Row {
            length,
            batch,
            schedule: name.clone(),
            work: plan.work(),
            prefill_seconds: Vec::new(),
            prefill_best: f64::INFINITY,
            pruning_seconds: 0.0,
            attention_seconds: 0.0,
            speedup: 1.0,
            speedup_bound: salient::cost::speedup_bound(&model.config().shape(), plan)?,
            decode_seconds_per_step: None,
            kv_bytes: 0,
            kv_allocated_bytes: 0,
            peak_rss_bytes: None,
        });
    }
    for _ in 0..arguments.repeat {
        for ((_, plan), row) in plans.iter().zip(&mut rows) {
            interrupt::check()?;
            machine::reset_peak_memory();
            once(model, scorer, &prompts, plan, arguments.decode, row)?;
            row.peak_rss_bytes = row.peak_rss_bytes.max(machine::peak_memory());
            bar.inc(1);
        }
    }
    let dense = rows[0].prefill_best;
    for row in &mut rows {
        row.speedup = dense / row.prefill_best;
    }
    Ok(rows)
}

fn once(
    model: &Model,
    scorer: &mut dyn Scorer,
    prompts: &[Vec<u32>],
    plan: &Plan,
    decode: usize,
    row: &mut Row,
) -> anyhow::Result<()> {
    let dense = plan.stages().is_empty();
    let mut prefill = if dense {
        model.prefill(prompts, plan, &Position, decode)?
    } else {
        scorer.prepare(model, prompts, plan)?;
        model.prefill(prompts, plan, scorer, decode)?
    };
    let seconds = prefill.elapsed.as_secs_f64();
    row.prefill_seconds.push(seconds);
    if seconds < row.prefill_best {
        row.prefill_best = seconds;
        row.pruning_seconds = prefill.pruning_time().as_secs_f64();
        row.attention_seconds = prefill.attention_time.as_secs_f64();
    }
    row.kv_bytes = prefill.cache.bytes();
    row.kv_allocated_bytes = prefill.cache.allocated_bytes();
    if decode > 0 {
        let step = vec![vec![1]; prompts.len()];
        let clock = std::time::Instant::now();
        for _ in 0..decode {
            let hidden = model.extend(&step, &mut prefill.cache)?;
            model.predict(&hidden)?;
        }
        model.device().synchronize()?;
        let seconds = clock.elapsed().as_secs_f64() / decode as f64;
        let best = row.decode_seconds_per_step.map_or(seconds, |best| best.min(seconds));
        row.decode_seconds_per_step = Some(best);
    }
    Ok(())
}

fn print(record: &Record) -> anyhow::Result<()> {
    use std::io::Write;
    let mut table: Table = table(&[
        "schedule", "length", "batch", "prefill", "speed-up", "allowed", "reached", "pruning",
        "ms/step", "KV", "peak RSS",
    ]);
    for row in &record.rows {
        table.add_row(figures_row(&[
            row.schedule.clone(),
            row.length.to_string(),
            row.batch.to_string(),
            format!("{:.3} s", row.prefill_best),
            format!("{:.2}x", row.speedup),
            format!("{:.2}x", row.speedup_bound),
            format!("{:.1}%", 100.0 * row.speedup / row.speedup_bound),
            format!("{:.2}%", 100.0 * row.pruning_seconds / row.prefill_best),
            row.decode_seconds_per_step.map_or(String::new(), |s| format!("{:.1}", 1e3 * s)),
            HumanBytes(row.kv_bytes as u64).to_string(),
            row.peak_rss_bytes.map_or(String::new(), |bytes| HumanBytes(bytes).to_string()),
        ]));
    }
    let mut out = output::stdout();
    writeln!(out, "{table}")?;
    writeln!(out, "on {} in {}", record.device, record.dtype)?;
    Ok(())
}

/// Speed-up by length, batch 1 or the first, with what the operation count allows.
fn chart(record: &Record) -> (Chart, Vec<Series>) {
    let batch = record.rows.first().map(|row| row.batch);
    let mut series: Vec<Series> = Vec::new();
    for row in record.rows.iter().filter(|row| Some(row.batch) == batch && row.schedule != "dense")
    {
        for (name, value) in [
            (row.schedule.clone(), row.speedup),
            (format!("{}, allowed", row.schedule), row.speedup_bound),
        ] {
            let point = Point { x: row.length as f64, y: value, interval: None };
            match series.iter_mut().find(|series| series.name == name) {
                Some(series) => series.points.push(point),
                None => series.push(Series { name, points: vec![point] }),
            }
        }
    }
    let chart = Chart {
        title: "Prefill, dense over pruned".into(),
        x_label: "prompt tokens".into(),
        y_label: "speed-up".into(),
        x_axis: Axis::Log,
        y_axis: Axis::Linear,
    };
    (chart, series)
}
