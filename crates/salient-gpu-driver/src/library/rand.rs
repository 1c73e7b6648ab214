//! cuRAND's host API: all generators of pseudo-random numbers are Philox4x32-10 (Salmon, Moraes,
//! Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", 2011).
//!
//! The same seed gives the same numbers, but not those that cuRAND gives: there, the generators
//! differ, and so does the order in which they fill memory.

use std::collections::HashMap;
use std::f64::consts::TAU;
use std::sync::{Arc, Mutex, PoisonError};

use salient_gpu::{Memory, MemoryError};

use crate::error::Code;
use crate::ffi::{Handle, Out};
use crate::library::{Task, check, entries};
use crate::state::{current, driver, fresh};
use crate::work::{Work, submit};

/// `curandStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status(u32);

impl Status {
    const NOT_INITIALIZED: Self = Self(101);
    const TYPE_ERROR: Self = Self(103);
    const OUT_OF_RANGE: Self = Self(104);
    const LENGTH_NOT_MULTIPLE: Self = Self(105);
    const LAUNCH_FAILURE: Self = Self(201);
    const INITIALIZATION_FAILED: Self = Self(203);
    const INTERNAL: Self = Self(999);
}

impl From<Code> for Status {
    fn from(code: Code) -> Self {
        match code {
            Code::NOT_INITIALIZED | Code::INVALID_CONTEXT => Self::INITIALIZATION_FAILED,
            Code::INVALID_VALUE => Self::OUT_OF_RANGE,
            _ => Self::LAUNCH_FAILURE,
        }
    }
}

/// A generator, as far as it has come.
#[derive(Debug, Clone, Copy)]
struct Generator {
    stream: Handle,
    seed: u64,
    /// Words of the sequence that were used.
    position: u64,
}

/// What is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Draw {
    Words,
    Uniform,
    UniformDouble,
    Normal { mean: f32, deviation: f32 },
    NormalDouble { mean: f64, deviation: f64 },
}

/// Memory to be filled with what is drawn.
struct Filling {
    to: u64,
    count: u64,
    seed: u64,
    position: u64,
    draw: Draw,
}

const PSEUDO: std::ops::Range<u32> = 100..200;

static GENERATORS: Mutex<Option<HashMap<Handle, Generator>>> = Mutex::new(None);

/// With a generator that there is.
fn generator<T>(handle: Handle, with: impl FnOnce(&mut Generator) -> T) -> Result<T, Status> {
    let mut generators = GENERATORS.lock().unwrap_or_else(PoisonError::into_inner);
    let generator = generators.get_or_insert_default().get_mut(&handle);
    generator.map(with).ok_or(Status::NOT_INITIALIZED)
}

entries! { Status;
    fn curandGetVersion(version: Out<i32>) {
        Ok(version.set(10_400)?)
    }

    fn curandCreateGenerator(generator: Out<Handle>, kind: u32) {
        current()?;
        if !PSEUDO.contains(&kind) {
            eprintln!("software GPU: curandCreateGenerator: no generators but pseudo-random ones");
            return Err(Status::TYPE_ERROR);
        }
        let handle = fresh();
        generator.set(handle)?;
        let mut generators = GENERATORS.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Generator { stream: 0, seed: 0, position: 0 };
        generators.get_or_insert_default().insert(handle, new);
        Ok(())
    }

    fn curandDestroyGenerator(generator: Handle) {
        let mut generators = GENERATORS.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = generators.get_or_insert_default().remove(&generator);
        removed.map(|_| ()).ok_or(Status::NOT_INITIALIZED)
    }

    fn curandSetStream(handle: Handle, stream: Handle) {
        generator(handle, |generator| generator.stream = stream)
    }

    fn curandSetPseudoRandomGeneratorSeed(handle: Handle, seed: u64) {
        generator(handle, |generator| *generator = Generator { seed, position: 0, ..*generator })
    }

    fn curandSetGeneratorOffset(handle: Handle, offset: u64) {
        generator(handle, |generator| generator.position = offset)
    }

    fn curandSetGeneratorOrdering(handle: Handle, _ordering: u32) {
        generator(handle, |_| ())
    }

    fn curandGenerateSeeds(handle: Handle) {
        generator(handle, |_| ())
    }

    fn curandGenerate(generator: Handle, to: u64, count: usize) {
        fill(generator, to, count, Draw::Words)
    }

    fn curandGenerateUniform(generator: Handle, to: u64, count: usize) {
        fill(generator, to, count, Draw::Uniform)
    }

    fn curandGenerateUniformDouble(generator: Handle, to: u64, count: usize) {
        fill(generator, to, count, Draw::UniformDouble)
    }

    fn curandGenerateNormal(
        generator: Handle, to: u64, count: usize, mean: f32, deviation: f32
    ) {
        fill(generator, to, count, Draw::Normal { mean, deviation })
    }

    fn curandGenerateNormalDouble(
        generator: Handle, to: u64, count: usize, mean: f64, deviation: f64
    ) {
        fill(generator, to, count, Draw::NormalDouble { mean, deviation })
    }
}

fn fill(handle: Handle, to: u64, count: usize, draw: Draw) -> Result<(), Status> {
    let count = count as u64;
    // Normal numbers come in pairs, and so do their destinations.
    let is_normal = matches!(draw, Draw::Normal { .. } | Draw::NormalDouble { .. });
    if is_normal && count % 2 == 1 {
        return Err(Status::LENGTH_NOT_MULTIPLE);
    }
    let (stream, seed, position) = generator(handle, |generator| {
        let before = generator.position;
        generator.position = before.wrapping_add(count.wrapping_mul(draw.words()));
        (generator.stream, generator.seed, before)
    })?;
    let task = Filling { to, count, seed, position, draw };
    let driver = driver()?;
    let (_, current) = current()?;
    let memory = driver.devices[current.device].gpu.memory();
    if let Err(error) = check(memory, to, task.bytes() as u64) {
        eprintln!("software GPU: {}: {error}", task.name());
        return Err(Status::LAUNCH_FAILURE);
    }
    Ok(submit(driver, stream, Work::Task(Arc::new(task)))?)
}

impl Draw {
    fn bytes(self) -> usize {
        match self {
            Self::Words | Self::Uniform | Self::Normal { .. } => 4,
            Self::UniformDouble | Self::NormalDouble { .. } => 8,
        }
    }

    /// Random words that a value takes.
    fn words(self) -> u64 {
        self.bytes() as u64 / 4
    }
}

impl Filling {
    fn bytes(&self) -> usize {
        self.count as usize * self.draw.bytes()
    }

    /// A word of the sequence.
    fn word(&self, index: u64) -> u32 {
        let at = self.position.wrapping_add(index);
        philox(u128::from(at / 4), self.seed)[at as usize % 4]
    }

    /// Above 0, and 1 at most.
    fn double(&self, index: u64) -> f64 {
        let bits = u64::from(self.word(2 * index)) << 32 | u64::from(self.word(2 * index + 1));
        ((bits >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// One of a pair of normal numbers, by the method of Box and Muller (1958).
    fn normal(&self, index: u64, uniform: impl Fn(u64) -> f64) -> f64 {
        let (first, second) = (uniform(index & !1), uniform(index | 1));
        let radius = (-2.0 * first.ln()).sqrt();
        let (sine, cosine) = (TAU * second).sin_cos();
        radius * if index & 1 == 0 { cosine } else { sine }
    }

    fn value(&self, index: u64) -> Value {
        // Above 0, and 1 at most, as cuRAND has it.
        let single = |index| (f64::from(self.word(index)) + 1.0) / (1u64 << 32) as f64;
        match self.draw {
            Draw::Words => Value::Four(self.word(index).to_le_bytes()),
            Draw::Uniform => Value::Four((single(index) as f32).to_le_bytes()),
            Draw::UniformDouble => Value::Eight(self.double(index).to_le_bytes()),
            Draw::Normal { mean, deviation } => {
                let value = self.normal(index, single) as f32 * deviation + mean;
                Value::Four(value.to_le_bytes())
            }
            Draw::NormalDouble { mean, deviation } => {
                let value = self.normal(index, |index| self.double(index)) * deviation + mean;
                Value::Eight(value.to_le_bytes())
            }
        }
    }
}

/// The bytes of a value.
enum Value {
    Four([u8; 4]),
    Eight([u8; 8]),
}

impl Task for Filling {
    fn name(&self) -> &'static str {
        "cuRAND"
    }

    fn run(&self, memory: &Memory) -> Result<(), MemoryError> {
        let mut bytes = Vec::with_capacity(self.bytes());
        for index in 0..self.count {
            match self.value(index) {
                Value::Four(value) => bytes.extend(value),
                Value::Eight(value) => bytes.extend(value),
            }
        }
        memory.write(self.to, &bytes)
    }
}

/// Block `counter` of the sequence that a key has.
fn philox(counter: u128, key: u64) -> [u32; 4] {
    let product = |a: u32, b: u32| {
        let product = u64::from(a) * u64::from(b);
        ((product >> 32) as u32, product as u32)
    };
    let mut block = [0, 32, 64, 96].map(|shift| (counter >> shift) as u32);
    let mut key = [key as u32, (key >> 32) as u32];
    for _ in 0..10 {
        let (high0, low0) = product(0xd251_1f53, block[0]);
        let (high1, low1) = product(0xcd9e_8d57, block[2]);
        block = [high1 ^ block[1] ^ key[0], low1, high0 ^ block[3] ^ key[1], low0];
        key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of the paper's implementation (Random123, `kat_vectors`).
    #[test]
    fn philox_is_that_of_the_paper() {
        for (counter, key, block) in [
            (0, 0, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            (u128::MAX, u64::MAX, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                0x0370_7344_1319_8a2e_85a3_08d3_243f_6a88,
                0x299f_31d0_a409_3822,
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox(counter, key), block);
        }
    }
}
