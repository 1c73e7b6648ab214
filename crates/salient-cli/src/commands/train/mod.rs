//! `salient train`: predictors of what tokens are worth, from a model and texts.

mod texts;

use std::collections::BTreeSet;
use std::fs::{self, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use base16ct::lower::encode_string;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use salient::schedule::Schedule;
use salient_candle::Model;
use salient_candle::scorer::{KeyNorm, Random, Scorer};
use salient_lab::eval::ModelId;
use salient_lab::machine::{self, Machine};
use salient_lab::train::{
    Config, FileHash, History, Record, Report, Row, Scored, StageMetrics, TextsReport,
};
use salient_lab::train::{Marks, Phase, Progress, Sample, StepReport, Target, Trainer, text_hash};
use salient_lab::{Error, interrupt, output, plot};
use sha2::{Digest, Sha256};

use super::device::{DeviceArguments, DeviceName, TypeName};
use super::model::ModelArguments;
use super::{figures_row, table};
use crate::Global;
use texts::{Text, Texts};

/// Train predictors that foresee which tokens matter, on HotpotQA questions and speeches.
///
/// A marking pass finds what every token is worth, by gradients or attention; predictors, one per
/// stage of the schedule, then learn to foresee it from hidden states: first against the marks
/// alone (fast), then, if asked to, through the masked model (full). The model itself is never
/// changed.
///
/// Into the folder of --out go predictors.safetensors (for `--scorer predictor:FILE`), card.md with
/// all options and held-out metrics, curves.svg, loss.svg, metrics.jsonl with a line per step, and
/// checkpoint.safetensors. After a kill or Ctrl-C the same command goes on from the checkpoint and
/// gives the same predictors. No text that `salient eval` reports on is trained on.
///
/// The run is on the CPU unless --device says otherwise, wherever the predictors are used later;
/// other devices round otherwise, so the same seed does not give the same bytes there. In memory
/// every text takes its tokens x the model's width x 4 bytes for each stage: 10.6 MB for 512 tokens
/// of SmolLM2-135M and the nine stages of `sdtp`. Where other work shares the cores,
/// CANDLE_NUM_THREADS=1 in the environment keeps candle's threads from waiting for each other; the
/// result is the same.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// All options, in TOML: seed, schedule, width, norm, target, contrast, scale, pairs, batch,
    /// decay, temperature, evaluate_every, patience; [losses] rank, mse, cross_entropy,
    /// distillation, keep_ratio, divergence; [fast] and [full] steps, warmup, rate; [data]
    /// questions, speeches, facts, held_out, tokens, scored, seed. What is left out has a default,
    /// which the card shows; flags come before the file.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Of weights, the order of texts, and noise: the same seed gives the same predictors.
    #[arg(long, value_name = "SEED", value_parser = clap::value_parser!(u64).range(..=i64::MAX as u64))]
    seed: Option<u64>,
    /// What scores are to foresee.
    #[arg(long, value_name = "TARGET", value_parser = targets())]
    target: Option<Target>,
    /// The stages that get a predictor, as for `generate`.
    #[arg(long, value_name = "SCHEDULE")]
    schedule: Option<Schedule>,
    /// Units between a predictor's two layers.
    #[arg(long, value_name = "N")]
    width: Option<usize>,
    /// Texts per step.
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Steps that fit scores to marks.
    #[arg(long, value_name = "N")]
    fast_steps: Option<usize>,
    /// Steps through the masked model.
    #[arg(long, value_name = "N")]
    full_steps: Option<usize>,
    /// Steps between evaluations on the held-out texts, each of which writes a checkpoint.
    #[arg(long, value_name = "N")]
    evaluate_every: Option<usize>,
    /// HotpotQA questions, of the first 6000.
    #[arg(long, value_name = "N")]
    questions: Option<usize>,
    /// Stretches of State of the Union messages.
    #[arg(long, value_name = "N")]
    speeches: Option<usize>,
    /// Questions for a fact that was hidden in such a message.
    #[arg(long, value_name = "N")]
    facts: Option<usize>,
    /// Of all these texts, how many are held out.
    #[arg(long, value_name = "N")]
    held_out: Option<usize>,
    /// Tokens per text; paragraphs that no answer needs are left out of longer questions.
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Which tokens' log-likelihood gradients are taken of.
    #[arg(long, value_name = "WHICH")]
    scored: Option<Scored>,
    /// `cpu`; in a build with feature `cuda` also `cuda`, which is the first CUDA device, or
    /// `cuda:N`. Always in f32.
    #[arg(long, value_name = "DEVICE", default_value_t = DeviceName::Cpu)]
    device: DeviceName,
    /// Where everything goes.
    #[arg(long, value_name = "FOLDER", default_value = "salient-train")]
    out: PathBuf,
    /// Where marks are kept, a file per text, for this run and others [default: OUT/marks].
    #[arg(long, value_name = "FOLDER")]
    marks: Option<PathBuf>,
}

const PREDICTORS: &str = "predictors.safetensors";

pub(crate) fn run(arguments: &Arguments, global: &Global) -> anyhow::Result<()> {
    let config = config(arguments)?;
    config.check()?;
    config.options.check()?;
    let model_path = arguments.model.path(global)?;
    let model_id = ModelId::of(&model_path)?;
    let out = &arguments.out;
    let marks = arguments.marks.clone().unwrap_or_else(|| out.join("marks"));
    for folder in [out, &marks] {
        fs::create_dir_all(folder).map_err(|e| Error::write(folder, e))?;
    }
    output::check_writable(out.join("card.md"))?;

    let place = DeviceArguments::of(arguments.device, TypeName::F32).open(global)?;
    let _one = only_one(out)?;

    let loaded = arguments.model.load_from(&model_path, &place, global)?;
    let model = &loaded.model;
    let (tokens, context) = (config.data.tokens, model.config().context);
    if tokens > context {
        let problem = format!("texts of {tokens} tokens: the model's context has {context}");
        return Err(Error::Usage(problem).into());
    }
    // As the run begins: files may change before it ends.
    let machine = Machine::this();
    let texts = Texts::open(&loaded, &config.data)?;
    let mut run = Run::open(model, &config, texts.sha256(), out)?;
    if run.resumed && !global.quiet {
        let Progress { phase, step, .. } = run.kept;
        output::note(format_args!("going on from the checkpoint: {phase} phase, step {step}"));
    }
    let bar = output::progress(global.quiet, texts.all().count() as u64, "marking");
    let mut sample = |text: &Text| {
        interrupt::check()?;
        let marks = marked(model, text, &run.trainer.layers(), &marks)?;
        let (tokens, scored) = (text.tokens.clone(), text.scored.clone());
        let sample = Sample::new(model, &config.options, tokens, scored, &marks)
            .with_context(|| format!("cannot train on {}", text.id))?;
        bar.inc(1);
        anyhow::Ok(sample)
    };
    let train: Vec<_> = texts.train.iter().map(&mut sample).collect::<Result<_, _>>()?;
    let held_out: Vec<_> = texts.held_out.iter().map(&mut sample).collect::<Result<_, _>>()?;
    bar.finish_and_clear();
    run.go_on(&train, &held_out, global)?;

    let mut rows = vec![Row {
        scorer: "predictor".into(),
        stages: StageMetrics::of(&run.trainer.metrics(&held_out)?),
    }];
    let random = Random { seed: config.options.seed };
    for scorer in [&KeyNorm as &dyn Scorer, &random] {
        let evaluation = run.trainer.metrics_of(scorer, model, &held_out)?;
        let stages = StageMetrics::of(&evaluation);
        rows.push(Row { scorer: scorer.name(), stages });
    }
    let predictors = run.trainer.to_file(model)?;
    let steps_in = |phase| run.history.records().iter().filter(|r| r.phase == phase).count();
    let report = Report {
        command: machine::command_line(),
        machine,
        model: model_id.name,
        fingerprint: model.fingerprint().to_owned(),
        texts: TextsReport {
            train: texts.train.len(),
            held_out: texts.held_out.len(),
            tokens: texts.all().map(|text| text.tokens.len()).sum(),
            sha256: run.data.clone(),
        },
        config,
        layers: run.trainer.layers(),
        steps: [steps_in(Phase::Fast), steps_in(Phase::Full)],
        alive: run.history.records().last().map(|last| last.alive.clone()).unwrap_or_default(),
        device: place.name,
        held_out: rows,
        predictors: FileHash {
            name: PREDICTORS,
            bytes: predictors.len(),
            sha256: encode_string(&Sha256::digest(&predictors)),
        },
    };
    output::write_whole(out.join(PREDICTORS), predictors)?;
    let (chart, series) = run.history.accuracy_chart();
    plot::line_chart(out.join("curves.svg"), &chart, &series)?;
    let (chart, series) = run.history.loss_chart();
    plot::line_chart(out.join("loss.svg"), &chart, &series)?;
    output::write_whole(out.join("card.md"), report.card())?;
    if global.json {
        return super::print_json(&report);
    }
    print(&report)?;
    if !global.quiet {
        output::note(format_args!("wrote predictors, card and curves to {}", out.display()));
    }
    Ok(())
}

/// Keeps other runs out of the folder for as long as it lives.
fn only_one(out: &Path) -> Result<fs::File, Error> {
    let path = out.join(".lock");
    let file = fs::File::create(&path).map_err(|e| Error::write(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let problem = "another run trains into this folder; wait for it or give another --out";
            Err(Error::Malformed { path: out.into(), problem: problem.into() })
        }
        Err(TryLockError::Error(e)) => Err(Error::write(path, e)),
    }
}

/// The file, and over it the flags.
fn config(arguments: &Arguments) -> anyhow::Result<Config> {
    let mut config = match &arguments.config {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|e| Error::read(path, e))?;
            Config::from_toml(&text, path)?
        }
        None => Config::default(),
    };
    let Config { options, data } = &mut config;
    let a = arguments;
    set(&mut options.seed, &a.seed);
    set(&mut options.target, &a.target);
    set(&mut options.schedule, &a.schedule);
    for (place, flag) in [
        (&mut options.width, a.width),
        (&mut options.batch, a.batch),
        (&mut options.fast.steps, a.fast_steps),
        (&mut options.full.steps, a.full_steps),
        (&mut options.evaluate_every, a.evaluate_every),
        (&mut data.questions, a.questions),
        (&mut data.speeches, a.speeches),
        (&mut data.facts, a.facts),
        (&mut data.held_out, a.held_out),
        (&mut data.tokens, a.tokens),
    ] {
        set(place, &flag);
    }
    set(&mut data.scored, &a.scored);
    Ok(config)
}

/// The targets by their names.
fn targets() -> impl TypedValueParser<Value = Target> {
    PossibleValuesParser::new(Target::ALL.map(Target::name)).try_map(|name| name.parse())
}

fn set<T: Clone>(place: &mut T, flag: &Option<T>) {
    if let Some(value) = flag {
        place.clone_from(value);
    }
}

/// A text's marks: the cached ones, if they can be trusted and have all layers, or new ones.
fn marked(model: &Model, text: &Text, layers: &[usize], folder: &Path) -> anyhow::Result<Marks> {
    let Text { tokens, scored, .. } = text;
    let (model_hash, text_hash) = (model.fingerprint(), text_hash(tokens, scored));
    let path = folder.join(format!("{model_hash}-{}.safetensors", &text_hash[..32]));
    let mut wanted: BTreeSet<usize> = layers.iter().copied().collect();
    if let Ok(bytes) = fs::read(&path) {
        match Marks::from_bytes(&bytes, model, tokens, scored) {
            Ok(marks) if wanted.is_subset(&marks.layers()) => return Ok(marks),
            // Runs with other stages use the file too.
            Ok(marks) => wanted.extend(marks.layers()),
            Err(error) => tracing::info!("{} is made again: {error}", path.display()),
        }
    }
    let wanted: Vec<usize> = wanted.into_iter().collect();
    let marks = Marks::new(model, tokens, scored.clone(), &wanted)
        .with_context(|| format!("cannot mark {}", text.id))?;
    output::write_whole(&path, marks.to_bytes(model, tokens, scored)?)?;
    Ok(marks)
}

/// A run, and its files.
struct Run<'a> {
    model: &'a Model,
    trainer: Trainer,
    history: History,
    /// What tells its texts from others.
    data: String,
    checkpoint: PathBuf,
    /// Where the checkpoint is.
    kept: Progress,
    resumed: bool,
}

impl<'a> Run<'a> {
    /// The run that left a checkpoint, or a new one.
    fn open(model: &'a Model, config: &Config, data: String, out: &Path) -> anyhow::Result<Self> {
        let options = config.options.clone();
        let (checkpoint, metrics) = (out.join("checkpoint.safetensors"), out.join("metrics.jsonl"));
        let (trainer, history, resumed) = match fs::read(&checkpoint) {
            Ok(bytes) => {
                let trainer =
                    Trainer::resume(model, options, &data, &bytes).with_context(|| {
                        let path = checkpoint.display();
                        format!("cannot go on from {path}: give another --out, or remove it")
                    })?;
                let history = History::resume(metrics, &trainer.progress())?;
                (trainer, history, true)
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                (Trainer::new(model, options)?, History::new(metrics), false)
            }
            Err(e) => return Err(Error::read(checkpoint, e).into()),
        };
        let kept = trainer.progress();
        Ok(Self { model, trainer, history, data, checkpoint, kept, resumed })
    }

    /// Goes on to the end.
    fn go_on(
        &mut self,
        train: &[Sample],
        held_out: &[Sample],
        global: &Global,
    ) -> anyhow::Result<()> {
        let options = self.trainer.options();
        let total = (options.fast.steps + options.full.steps) as u64;
        let bar = output::progress(global.quiet, total, "training");
        bar.set_position(self.history.records().len() as u64);
        self.keep()?;
        let mut accuracy = String::new();
        while self.trainer.progress().phase != Phase::Done {
            let mut record = self.step(train).with_context(|| self.stopped())?;
            let due = self.trainer.is_due();
            if due {
                let evaluation =
                    self.trainer.evaluate(self.model, held_out).with_context(|| self.stopped())?;
                record.held_out = StageMetrics::of(&evaluation);
                let mean = StageMetrics::mean_pair_accuracy(&record.held_out);
                accuracy = format!(", held-out pair accuracy {mean:.4}");
            }
            bar.set_message(format!("{} phase, loss {:.4}{accuracy}", record.phase, record.loss));
            self.history.push(record);
            bar.inc(1);
            if due || interrupt::requested() {
                self.keep()?;
            }
            interrupt::check()?;
        }
        bar.finish_and_clear();
        Ok(())
    }

    fn step(&mut self, train: &[Sample]) -> anyhow::Result<Record> {
        let Progress { phase, step, .. } = self.trainer.progress();
        let report = self.trainer.step(self.model, train)?;
        let StepReport { loss, rate, alive } = report;
        Ok(Record { phase, step: step + 1, loss, rate, alive, held_out: Vec::new() })
    }

    /// Writes metrics and checkpoint. What the first has beyond the second, a run that goes on
    /// drops.
    fn keep(&mut self) -> anyhow::Result<()> {
        self.history.write()?;
        let checkpoint = self.trainer.checkpoint(self.model, &self.data)?;
        output::write_whole(&self.checkpoint, checkpoint)?;
        self.kept = self.trainer.progress();
        Ok(())
    }

    fn stopped(&self) -> String {
        let (path, Progress { phase, step, .. }) = (self.checkpoint.display(), self.kept);
        format!("training stopped; the last good checkpoint, {phase} phase, step {step}, is {path}")
    }
}

fn print(report: &Report) -> anyhow::Result<()> {
    let mut header = vec!["layer".to_owned()];
    for row in &report.held_out {
        header.extend(["pairs", "tau", "overlap"].map(|what| format!("{} {what}", row.scorer)));
    }
    let mut table = table(&header.iter().map(String::as_str).collect::<Vec<_>>());
    for (index, layer) in report.layers.iter().enumerate() {
        let mut cells = vec![layer.to_string()];
        for row in &report.held_out {
            let m = &row.stages[index];
            cells.extend([m.pair_accuracy, m.kendall_tau, m.overlap].map(|x| format!("{x:.3}")));
        }
        table.add_row(figures_row(&cells));
    }
    let mut out = output::stdout();
    writeln!(out, "{table}")?;
    let (texts, target) = (report.texts.held_out, report.config.options.target);
    writeln!(out, "against {target} on {texts} held-out texts; pairs: the share ordered alike")?;
    Ok(())
}
