//! The command as people and scripts meet it: exit codes, streams, words.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn salient(home: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_salient"));
    command.args(arguments).env("SALIENT_HOME", home).env_remove("SALIENT_LOG");
    command
}

fn run(home: &Path, arguments: &[&str]) -> (Output, String) {
    let output = salient(home, arguments).output().unwrap();
    let errors = String::from_utf8(output.stderr.clone()).unwrap();
    (output, errors)
}

#[test]
fn usage_errors_exit_with_2() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [
        &[][..],
        &["no-such-command"],
        &["fetch"],
        &["fetch", "--no-such-flag"],
        &["-q", "-v", "fetch", "demo"],
    ] {
        let (output, errors) = run(home.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty());
    }
    let (output, errors) = run(home.path(), &["fetch", "gpt"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(errors.contains("smollm2, squad, hotpotqa, essays, sotu"), "{errors}");
    assert!(!errors.contains('\u{1b}'), "colours without a terminal: {errors}");
}

#[test]
fn the_list_shows_every_asset_to_people_and_machines() {
    let home = tempfile::tempdir().unwrap();
    let (output, _) = run(home.path(), &["fetch", "--list"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let (output, _) = run(home.path(), &["fetch", "--list", "--json"]);
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    for row in rows.as_array().unwrap() {
        assert_eq!(row["state"], "missing");
        assert!(text.contains(row["path"].as_str().unwrap()));
        assert!(row["path"].as_str().unwrap().starts_with(home.path().to_str().unwrap()));
    }
    assert_eq!(rows.as_array().unwrap().len(), 5);
}

#[test]
fn without_a_client_fetch_says_what_to_install_and_exits_with_1() {
    let home = tempfile::tempdir().unwrap();
    let output =
        salient(home.path(), &["fetch", "smollm2", "--json"]).env("PATH", "").output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.starts_with("error: cannot fetch smollm2\n  caused by: "), "{errors}");
    assert!(errors.contains("install Python 3 with pip"), "{errors}");
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows[0]["outcome"], serde_json::Value::Null);
}

#[test]
fn a_damaged_file_is_shown() {
    let home = tempfile::tempdir().unwrap();
    std::fs::create_dir(home.path().join("texts")).unwrap();
    std::fs::write(home.path().join("texts/squad.json"), "{").unwrap();
    let (output, _) = run(home.path(), &["fetch", "squad", "--list", "--json"]);
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(rows[0]["state"], "damaged");
}

#[cfg(target_os = "linux")]
#[test]
fn a_reader_that_leaves_ends_the_command_quietly() {
    let home = tempfile::tempdir().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut child = salient(home.path(), &["fetch", "--list"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(errors, "");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_output_is_an_error() {
    let home = tempfile::tempdir().unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = salient(home.path(), &["fetch", "--list"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn what_cannot_be_pruned_or_shown_is_refused_before_any_work() {
    let home = tempfile::tempdir().unwrap();
    let broken = home.path().join("broken.gguf");
    std::fs::write(&broken, b"GGUF, but not really").unwrap();
    let broken = broken.to_str().unwrap();
    let nowhere = home.path().join("no/page.html");
    let nowhere = nowhere.to_str().unwrap();
    let cases: [(&[&str], i32, &str); 10] = [
        (&["generate", "x", "--schedule", "4:3:10:1.5"], 2, "ratio"),
        (&["generate", "x", "--schedule", "14=0"], 2, "ratio"),
        (&["generate", "x", "--schedule", "often"], 2, "often"),
        (&["generate", "x", "--scorer", "attention"], 2, "no scorer"),
        (&["generate", "--context", "a.txt"], 2, "--question"),
        (&["generate", "x", "--model", "no/such.gguf"], 2, "no/such.gguf"),
        (&["generate", "x"], 1, "salient fetch smollm2"),
        (&["generate", "x", "--model", broken], 1, "broken.gguf"),
        (&["inspect", "x", "--model", broken, "--html", nowhere], 1, "page.html"),
        (&["bench", "--length", "0"], 2, "--length is 0"),
    ];
    for (arguments, code, words) in cases {
        let (output, errors) = run(home.path(), arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(words), "{arguments:?}: {errors}");
        assert!(output.stdout.is_empty());
    }
}

/// A device is opened before the model, so none of this needs one.
#[test]
fn a_device_that_cannot_be_used_is_refused_with_the_reason() {
    let home = tempfile::tempdir().unwrap();
    let refused = |command: &str, arguments: &[&str], code: i32| {
        let mut all = vec![command];
        if command != "bench" {
            all.push("a prompt");
        }
        all.extend(arguments);
        let (output, errors) = run(home.path(), &all);
        assert_eq!(output.status.code(), Some(code), "{all:?}: {errors}");
        errors
    };
    for command in ["generate", "inspect", "bench"] {
        let errors = refused(command, &["--device", "gpu"], 2);
        assert!(errors.contains("auto, cpu, cuda and cuda:N"), "{errors}");
        let errors = refused(command, &["--device", "cpu", "--dtype", "f16"], 2);
        assert!(errors.contains("f16") && errors.contains("f32"), "{errors}");
        // Beyond any machine's.
        let errors = refused(command, &["--device", "cuda:9999"], 1);
        assert!(errors.contains("cuda:9999 cannot be used: "), "{errors}");
        #[cfg(not(feature = "cuda"))]
        assert!(errors.contains("built without feature `cuda`"), "{errors}");
    }
    // What `auto` takes is said, with the reason, unless nobody wants to know.
    #[cfg(not(feature = "cuda"))]
    {
        let errors = refused("generate", &[], 1);
        assert!(errors.contains("running on cpu in f32: this salient was built"), "{errors}");
        let errors = refused("generate", &["--quiet"], 1);
        assert!(!errors.contains("running on"), "{errors}");
    }
}
