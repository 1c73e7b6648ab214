//! How the device is to behave: `SALIENT_GPU`, words with commas between.

use std::str::FromStr;

/// The environment variable that [`Config::from_environment`] reads.
pub const VARIABLE: &str = "SALIENT_GPU";

/// What device it is, and how it goes about its freedoms.
///
/// As text, in any order: `sm_90,async=random,seed=7,delay=2000,races,sums=exact`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `sm_80`, `sm_86`, `sm_89`, `sm_90`, `sm_100` or `sm_120`: limits and instructions as of that
    /// device.
    pub architecture: u32,
    /// `devices=2`: how many of them there are.
    pub devices: usize,
    /// `async=eager`, `late` or `random`: when asynchronous copies and products complete.
    pub completion: Completion,
    /// `streams=eager`, `late` or `random`: when the work of a stream is done.
    pub streams: Completion,
    /// `seed=7`: for everything that is drawn.
    pub seed: u64,
    /// `order=forward`, `reverse` or `random`: in which order blocks, clusters and warps go.
    pub order: Order,
    /// `delay=2000`: a warp is now and then held back, for at most 2000 steps of the others. 0:
    /// never.
    pub delay: u32,
    /// `races`: accesses without an order between them are faults.
    pub races: bool,
    /// `unwritten=allow` or `fault`: reads of memory that nobody wrote.
    pub unwritten: Unwritten,
    /// `sums=device` or `exact`: tensor cores add up as the device's do, or with one rounding.
    pub sums: Sums,
    /// `approximate=best` or `worst`: approximate instructions are off by as much as is documented.
    pub approximate: Approximate,
    /// `counters`: traffic is counted, instruction by instruction.
    pub counters: bool,
    /// `loading=anywhere` or `before`: whether a kernel may be loaded while a capture forbids calls
    /// that may wait.
    pub loading: Loading,
    /// `steps=1000000000`: a launch that takes more warp-instructions is given up as hanging.
    pub steps: u64,
}

/// When asynchronous work completes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Completion {
    /// Where it is issued.
    Eager,
    /// When it is waited for, and no earlier.
    Late,
    /// Anywhere in between.
    Random,
}

/// In which order blocks, clusters and warps go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By their index.
    Forward,
    /// The last first.
    Reverse,
    /// As drawn.
    Random,
}

/// What a read of memory that nobody wrote is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unwritten {
    /// Poison.
    Allow,
    /// A fault.
    Fault,
}

/// How tensor cores add up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sums {
    /// As measured on the device.
    Device,
    /// In full, with one rounding.
    Exact,
}

/// Where a kernel may be used for the first time, which loads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loading {
    /// Anywhere.
    Anywhere,
    /// Before captures, but relaxed ones. Drivers do not promise that a first use within a capture
    /// works: this is the strictest of them.
    Before,
}

/// What approximate instructions return.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approximate {
    /// The nearest number.
    Best,
    /// A number that is off by the documented error, up or down as drawn from the input.
    Worst,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            architecture: 90,
            devices: 1,
            completion: Completion::Eager,
            streams: Completion::Eager,
            seed: 0,
            order: Order::Forward,
            delay: 0,
            races: false,
            unwritten: Unwritten::Allow,
            sums: Sums::Device,
            approximate: Approximate::Best,
            counters: false,
            loading: Loading::Anywhere,
            steps: 20_000_000_000,
        }
    }
}

impl Config {
    /// As `SALIENT_GPU` says, or the default.
    ///
    /// # Errors
    ///
    /// A word that is none of these.
    pub fn from_environment() -> Result<Self, String> {
        std::env::var(VARIABLE).unwrap_or_default().parse()
    }
}

impl FromStr for Config {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            config.set(word)?;
        }
        Ok(config)
    }
}

impl Config {
    /// Takes one word over.
    ///
    /// # Errors
    ///
    /// A word that is none of these.
    pub fn set(&mut self, word: &str) -> Result<(), String> {
        let unknown = || format!("{VARIABLE}: {word:?} is no setting of the software GPU");
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let number = || value.parse::<u64>().map_err(|_| unknown());
        match (name, value) {
            ("sm_80" | "sm_86" | "sm_89" | "sm_90" | "sm_100" | "sm_120", "") => {
                self.architecture = name[3..].parse().expect("digits");
            }
            ("devices", _) => self.devices = number()?.clamp(1, 16) as usize,
            ("async", "eager") => self.completion = Completion::Eager,
            ("async", "late") => self.completion = Completion::Late,
            ("async", "random") => self.completion = Completion::Random,
            ("streams", "eager") => self.streams = Completion::Eager,
            ("streams", "late") => self.streams = Completion::Late,
            ("streams", "random") => self.streams = Completion::Random,
            ("seed", _) => self.seed = number()?,
            ("order", "forward") => self.order = Order::Forward,
            ("order", "reverse") => self.order = Order::Reverse,
            ("order", "random") => self.order = Order::Random,
            ("delay", _) => self.delay = number()?.min(1 << 30) as u32,
            ("races", "") => self.races = true,
            ("unwritten", "allow") => self.unwritten = Unwritten::Allow,
            ("unwritten", "fault") => self.unwritten = Unwritten::Fault,
            ("sums", "device") => self.sums = Sums::Device,
            ("sums", "exact") => self.sums = Sums::Exact,
            ("approximate", "best") => self.approximate = Approximate::Best,
            ("approximate", "worst") => self.approximate = Approximate::Worst,
            ("counters", "") => self.counters = true,
            ("loading", "anywhere") => self.loading = Loading::Anywhere,
            ("loading", "before") => self.loading = Loading::Before,
            ("steps", _) => self.steps = number()?.max(1),
            _ => return Err(unknown()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_taken_and_no_other() {
        let config: Config =
            "sm_80, async=late,seed=7,delay=2000,races,unwritten=fault,sums=exact,counters,\
             loading=before"
                .parse()
                .unwrap();
        let expected = Config {
            architecture: 80,
            completion: Completion::Late,
            seed: 7,
            delay: 2000,
            races: true,
            unwritten: Unwritten::Fault,
            sums: Sums::Exact,
            counters: true,
            loading: Loading::Before,
            ..Config::default()
        };
        assert_eq!(config, expected);
        for word in ["sm_70", "async=soon", "seed=x", "race", "delay", "races=1", "sm_90=1"] {
            let error = word.parse::<Config>().unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
