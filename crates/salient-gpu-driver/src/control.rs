//! What tests and tools ask of the software GPU: `salient_gpu_control`.
//!
//! - `about`: what the device is, as JSON.
//! - `set WORD,WORD`: settings of [`Config`] for launches from now on.
//! - `launches`: those that the calling thread submitted since `clear`, as a list of JSON.
//! - `faults`: those of all threads since `clear`, a line of JSON each.
//! - `clear`: forgets launches and faults, and the errors that stick to contexts.
//! - `edit ...`: changes the PTX of modules that are loaded from now on.

use std::ffi::c_char;

use salient_gpu::Config;

use crate::driver::device::name_of;
use crate::driver::init::VERSION;
use crate::error::Code;
use crate::ffi::{Out, Text, guard};
use crate::log::text;
use crate::state::{made, thread};

/// Answers a request: writes the reply, cut off at `capacity`, without a zero byte, and gives its
/// length; where the request is not taken, minus the length of a message written instead.
#[unsafe(no_mangle)]
extern "C" fn salient_gpu_control(request: Text, reply: Out<c_char>, capacity: usize) -> isize {
    let mut length = 0;
    let guarded = guard("salient_gpu_control", || {
        let (text, sign) = match answer(request.str()?) {
            Ok(text) => (text, 1),
            Err(text) => (text, -1),
        };
        for (index, &byte) in text.as_bytes().iter().take(capacity).enumerate() {
            reply.at(index).set(byte as c_char)?;
        }
        length = sign * text.len() as isize;
        Ok(())
    });
    if guarded.is_ok() { length } else { -1 }
}

fn answer(request: &str) -> Result<String, String> {
    let driver = made().map_err(|code| code.to_string())?;
    let (word, rest) = request.split_once(' ').unwrap_or((request, ""));
    match (word, rest) {
        ("about", "") => Ok(about(&driver.config(), driver.devices.len(), VERSION)),
        ("set", words) => {
            for device in &driver.devices {
                let before = device.gpu.config();
                let mut config = before.clone();
                for word in words.split(',').map(str::trim).filter(|word| !word.is_empty()) {
                    config.set(word)?;
                }
                if config.architecture != before.architecture || config.devices != before.devices {
                    return Err("the device itself is set by the environment alone".to_owned());
                }
                device.gpu.configure(config);
            }
            Ok(String::new())
        }
        ("launches", "") => Ok(driver.log.launches(thread())),
        ("faults", "") => Ok(driver.log.faults()),
        ("clear", "") => {
            driver.log.clear();
            for context in driver.tables().contexts.values_mut() {
                context.broken = None;
            }
            Ok(String::new())
        }
        ("edit", _) => Err(Code::NOT_SUPPORTED.to_string()),
        _ => Err(format!("{request:?} is no request to the software GPU")),
    }
}

fn about(config: &Config, devices: usize, version: i32) -> String {
    let name = name_of(salient_gpu::device::Device::of(config.architecture));
    format!(
        r#"{{"name":{},"architecture":{},"devices":{devices},"driver":{version},"config":{}}}"#,
        text(&name),
        config.architecture,
        text(&format!("{config:?}")),
    )
}
