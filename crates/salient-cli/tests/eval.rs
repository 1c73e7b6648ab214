//! `salient eval` as people meet it: what is refused, and a small evaluation of the real model that
//! is stopped and goes on.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn eval(home: &Path, out: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_salient"))
        .args(["eval", "--out"])
        .arg(out)
        .args(arguments)
        .env("SALIENT_HOME", home)
        .env_remove("SALIENT_LOG")
        .output()
        .unwrap()
}

fn refused(home: &Path, out: &Path, arguments: &[&str], code: i32, said: &str) {
    let output = eval(home, out, arguments);
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
    assert!(errors.contains(said), "{arguments:?}: {errors}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
}

#[test]
fn what_cannot_work_is_refused_before_any_work() {
    let folder = tempfile::tempdir().unwrap();
    let (home, out) = (folder.path(), folder.path().join("out"));
    let refused = |arguments: &[&str], code, said: &str| {
        refused(home, &out, arguments, code, said);
        assert!(!out.exists(), "{arguments:?}");
    };
    refused(&["--task", "chess"], 2, "needle, hotpotqa, squad, continuation");
    refused(&["--scorer", "luck"], 2, "no scorer");
    refused(&["--schedule", "never"], 2, "never");
    refused(&["--task", "needle", "--items", "0"], 2, "at least one item");
    refused(&["--task", "needle", "--length", "0"], 2, "at least one token");
    refused(&["--task", "needle", "--depths", "10,120"], 2, "between 0 and 100");
    refused(&["--task", "needle", "--ratio", "1.5"], 2, "--ratio 1.5");
    refused(&["--task", "hotpotqa", "--items", "1000"], 2, "350");
    refused(&["--task", "needle", "--question", "never"], 2, "last, first, later");
    refused(&["--task", "needle", "--split", "train"], 2, "tune, report");
    refused(&["--task", "needle"], 1, "salient fetch smollm2");
    refused(&[], 1, "salient fetch essays");
    refused(&["--task", "needle", "--model", "gpt"], 2, "gpt");
    refused(&["--task", "needle", "--scorer", "predictor:no"], 1, "no");
    // A model that is there, so that the text is what lacks.
    let model = folder.path().join("model.gguf");
    fs::write(&model, "GGUF").unwrap();
    let model = model.to_str().unwrap();
    refused(&["--task", "squad", "--model", model], 1, "salient fetch squad");
}

#[test]
fn charts_of_recorded_rows_are_drawn_without_a_model() {
    let folder = tempfile::tempdir().unwrap();
    let (record, out) = (folder.path().join("record.json"), folder.path().join("charts"));
    let estimate = json!({"mean": 0.5, "low": 0.25, "high": 0.75, "count": 4});
    let row = |scorer: &str| {
        json!({"task": "needle", "length": 512, "question": "later", "scorer": scorer,
            "schedule": "late", "items": 4, "prompt_tokens": 500.0, "work": 0.65, "final_keep": 0.12,
            "flops_saved": 0.3, "kv_kept": 0.65, "speedup": 1.5, "accuracy": estimate,
            "by_depth": [], "stages": [{"layer": 14, "share": 0.5}]})
    };
    let rows = json!({"date": "today", "rows": [row("random"), row("key-norm")]});
    fs::write(&record, rows.to_string()).unwrap();
    let draw = ["--draw", record.to_str().unwrap()];
    let output = eval(folder.path(), &out, &draw);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut names: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let expected = ["accuracy", "survival-late"];
    assert_eq!(names, expected.map(|what| format!("needle-512-question-later-{what}.svg")));

    fs::write(&record, "{\"rows\": [1]}").unwrap();
    refused(folder.path(), &out, &draw, 1, "record.json: does not hold the rows");
}

/// One item per task and two scorers; then the file is cut as a crash would, and the same command
/// goes on; then one scorer is asked for alone; then another model is tried.
#[test]
fn an_evaluation_of_the_real_model_goes_on_where_it_ended() {
    let Some(home) = home() else { return };
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let common = ["--items", "1", "--length", "320", "--schedule", "late", "--json"];
    let with = |scorers: &[&'static str]| {
        let scorers = scorers.iter().flat_map(|scorer| ["--scorer", scorer]);
        let arguments: Vec<_> = common.into_iter().chain(scorers).collect();
        let output = eval(&home, &out, &arguments);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{errors}");
        (serde_json::from_slice::<Value>(&output.stdout).unwrap(), errors)
    };
    let (summary, _) = with(&["last-query:max:17", "random"]);
    let rows = summary["rows"].as_array().unwrap();
    let tasks = ["needle", "hotpotqa", "squad", "continuation"];
    for (rows, task) in rows.chunks(3).zip(tasks) {
        assert!(rows.iter().all(|row| row["task"] == task), "{task}");
        let [dense, best, worst] = rows else { panic!("three rows of {task}") };
        assert_eq!((&dense["scorer"], &dense["work"]), (&Value::from("dense"), &Value::from(1.0)));
        assert!(dense["kl"].is_null());
        let work = best["work"].as_f64().unwrap();
        assert!((0.6..0.7).contains(&work), "{work}");
        match task {
            "needle" => {
                assert_eq!(dense["accuracy"]["mean"], 1.0);
                assert_eq!(best["scorer"], "last-query:max:17");
                let stages = best["stages"].as_array().unwrap();
                let shares: Vec<_> = stages.iter().map(|s| s["share"].as_f64().unwrap()).collect();
                assert!(shares.is_sorted_by(|a, b| a >= b), "{shares:?}");
            }
            _ => {
                let mean = |row: &Value, measure: &str| row[measure]["mean"].as_f64().unwrap();
                let delta = mean(best, "nll") - mean(dense, "nll");
                assert!((delta - mean(best, "delta_nll")).abs() < 1e-9);
                assert!(mean(best, "kl") > 0.0 && mean(worst, "kl") >= mean(best, "kl"));
            }
        }
    }
    assert_eq!(rows.len(), 12);
    for name in ["results.json", "results.csv", "needle-320-accuracy.svg", "hotpotqa-kl.svg"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    assert_eq!(fs::read_to_string(out.join("results.csv")).unwrap().lines().count(), 13);

    let results = out.join("results.jsonl");
    let whole = fs::read_to_string(&results).unwrap();
    assert_eq!(whole.lines().count(), 12);
    fs::write(&results, &whole[..whole.len() - 40]).unwrap();
    let (again, errors) = with(&["last-query:max:17", "random"]);
    assert!(errors.contains("half-written") && errors.contains("11 of 12"), "{errors}");
    assert_eq!(untimed(again), untimed(summary));

    // Nothing is left to do, and the results of one scorer are not those of another.
    let (fewer, errors) = with(&["random"]);
    let rest: Vec<_> = errors.lines().filter(|line| !line.starts_with("running on ")).collect();
    assert!(rest.is_empty(), "{errors}");
    assert_eq!(fewer["rows"].as_array().unwrap().len(), 8);
    assert_eq!(fs::read_to_string(&results).unwrap().lines().count(), 12);

    let other = folder.path().join("other.gguf");
    fs::write(&other, "GGUF").unwrap();
    let before = fs::read(&results).unwrap();
    let arguments = ["--items", "1", "--model", other.to_str().unwrap()];
    refused(&home, &out, &arguments, 1, "give another --out");
    assert_eq!(fs::read(&results).unwrap(), before);

    let long = folder.path().join("long");
    let arguments = ["--task", "needle", "--items", "1", "--length", "9000"];
    refused(&home, &long, &arguments, 2, "context has 8192");
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    refused(&home, &file, &["--items", "1"], 1, "cannot write");
}

/// A summary without what the clock says.
fn untimed(mut summary: Value) -> Value {
    for row in summary["rows"].as_array_mut().unwrap() {
        assert!(row["speedup"].take().as_f64().unwrap() > 0.0);
    }
    summary
}

/// The question after the cache is built: where nothing is dropped there is nothing to tell from
/// the dense run, and where tokens are dropped there is.
#[test]
fn questions_are_asked_of_a_text_that_is_pruned_already() {
    let Some(home) = home() else { return };
    let folder = tempfile::tempdir().unwrap();
    let arguments = ["--task", "needle", "--task", "squad", "--items", "1", "--length", "320"];
    let schedules = ["--question", "later", "--schedule", "14=1", "--schedule", "late", "--json"];
    let scorer = ["--scorer", "last-query:max:17"];
    let output = eval(&home, folder.path(), &[&arguments[..], &schedules, &scorer].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rows = summary["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["question"] == "later"));
    let figure = |task: &str, schedule: &str, name: &str| {
        let of = |row: &&Value| row["task"] == task && row["schedule"] == schedule;
        let value = &rows.iter().find(of).unwrap()[name];
        value.as_f64().or_else(|| value["mean"].as_f64())
    };
    assert_eq!(figure("needle", "dense", "accuracy"), Some(1.0));
    assert_eq!(figure("needle", "14=1", "accuracy"), Some(1.0));
    let kept_all = figure("squad", "14=1", "kl").unwrap();
    assert!(kept_all < 1e-9, "{kept_all}");
    assert!(figure("squad", "late", "kl").unwrap() > 1e-3);
    assert_eq!(figure("squad", "14=1", "kv_kept"), Some(1.0));
    assert_eq!(figure("squad", "14=1", "flops_saved"), Some(0.0));
    let (saved, kept) =
        (figure("squad", "late", "flops_saved"), figure("squad", "late", "kv_kept"));
    assert!((0.3..0.4).contains(&saved.unwrap()) && (0.6..0.7).contains(&kept.unwrap()));
}

/// The asset cache with the model and all texts. Incomplete: nothing with a loud line, or a failure
/// where `SALIENT_REQUIRE_MODEL` or `CI` is set.
fn home() -> Option<PathBuf> {
    const ASSETS: [&str; 4] = [
        "models/SmolLM2-135M-Instruct.Q4_1.gguf",
        "texts/essays.json",
        "texts/hotpotqa.json",
        "texts/squad.json",
    ];
    let home = std::env::var_os("SALIENT_HOME").map(PathBuf::from);
    if let Some(home) = home.filter(|home| ASSETS.iter().all(|asset| home.join(asset).exists())) {
        return Some(home);
    }
    let required = ["SALIENT_REQUIRE_MODEL", "CI"].iter().any(|v| std::env::var_os(v).is_some());
    assert!(!required, "the assets are not in SALIENT_HOME; scripts/test fetches them");
    eprintln!("SKIPPED: the assets are not in SALIENT_HOME; scripts/test fetches them");
    None
}
