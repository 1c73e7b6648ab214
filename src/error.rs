//! What can go wrong, each variant naming both sides.

use std::fmt;

/// A specialised `Result`.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Bad input, and what would have been right.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A slice does not have the length that the shapes ask for.
    #[error("{what}: expected {expected} elements, got {actual}")]
    LengthMismatch {
        /// The argument.
        what: &'static str,
        /// The length that the other arguments imply.
        expected: usize,
        /// The length it has.
        actual: usize,
    },
    /// A number lies outside what is allowed.
    #[error("{what} is {value}, which must be {expected}")]
    OutOfRange {
        /// The argument.
        what: &'static str,
        /// Its value.
        value: f64,
        /// What is allowed, in words that complete "must be".
        expected: &'static str,
    },
    /// A row, page or token index points outside its pool.
    #[error("{what}: index {index} is not below {limit}")]
    IndexOutOfBounds {
        /// The list that holds the index.
        what: &'static str,
        /// The index; negative values are kept as they were.
        index: i64,
        /// One past the largest legal index.
        limit: usize,
    },
    /// A list that must ascend strictly does not.
    #[error("{what} must ascend strictly, but entry {index} does not exceed the one before")]
    NotAscending {
        /// The list.
        what: &'static str,
        /// The first entry at fault.
        index: usize,
    },
    /// More tokens are protected than the budget keeps.
    #[error("row {row}: the budget keeps {budget} tokens, but {protected} are protected")]
    BudgetBelowProtected {
        /// The row (sequence, or sequence and KV head).
        row: usize,
        /// Tokens that the budget keeps.
        budget: usize,
        /// Tokens that may not be dropped.
        protected: usize,
    },
    /// A stage is placed at a layer that the model does not have.
    #[error("a stage is at layer {layer}, but the model has layers 0 to {}", layers - 1)]
    StageBeyondModel {
        /// The stage's layer.
        layer: usize,
        /// The number of layers.
        layers: usize,
    },
    /// The text form of a schedule cannot be read.
    #[error("the schedule `{text}` is not valid: {reason}")]
    InvalidSchedule {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A weight or input is NaN or infinite where only numbers are allowed.
    #[error("{what}: entry {index} is not finite")]
    NotFinite {
        /// The argument.
        what: &'static str,
        /// The first entry at fault.
        index: usize,
    },
    /// A buffer does not start where a kernel can read it.
    #[error("{what} starts at address {address:#x}, which must be a multiple of {align}")]
    Misaligned {
        /// The argument.
        what: &'static str,
        /// Its first byte.
        address: usize,
        /// What the address must be a multiple of, in bytes.
        align: usize,
    },
    /// Two buffers of which one is written share bytes.
    #[error("{what} overlaps {other}")]
    Overlap {
        /// The buffer that is written.
        what: &'static str,
        /// The other one.
        other: &'static str,
    },
    /// An argument does not go with the others: missing where they need it, given where they have
    /// no use for it, or made for something else.
    #[error("{what} must be {expected}")]
    Unfit {
        /// The argument.
        what: &'static str,
        /// What would go with them, in words that complete "must be".
        expected: &'static str,
    },
    /// A kernel found a fault in data that only it could see.
    #[error("{0}")]
    Faulted(crate::Status),
    /// A launcher refused or failed.
    #[error("{kernel} could not be launched")]
    Launch {
        /// The launcher.
        kernel: &'static str,
        /// What it returned.
        source: LaunchError,
    },
    /// A tensor's elements are not of the type that was planned.
    #[error("{what} holds {actual:?}, but the plan is for {expected:?}")]
    DTypeMismatch {
        /// The argument.
        what: &'static str,
        /// The plan's type.
        expected: crate::DType,
        /// The tensor's type.
        actual: crate::DType,
    },
    /// A buffer lives in another CUDA context than the stream.
    #[cfg(feature = "cuda")]
    #[error("{what} is of {actual}, the stream of {expected}")]
    OtherContext {
        /// The argument.
        what: &'static str,
        /// The stream's context.
        expected: crate::cuda::ContextId,
        /// The buffer's context.
        actual: crate::cuda::ContextId,
    },
    /// The CUDA driver refused or failed, perhaps in work that was enqueued earlier.
    #[cfg(feature = "cuda")]
    #[error("the CUDA driver failed")]
    Driver(
        /// What it said.
        #[from]
        cudarc::driver::DriverError,
    ),
    /// Sizes that multiply or add beyond what an index can hold.
    #[error("{what}: the sizes overflow")]
    Overflow {
        /// The quantity.
        what: &'static str,
    },
}

/// What a launcher returned instead of 0: a `cudaError_t`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LaunchError(
    /// The code.
    pub i32,
);

impl LaunchError {
    /// `Ok` for 0, which is success.
    ///
    /// # Errors
    /// [`Error::Launch`] for every other code.
    pub fn check(kernel: &'static str, code: i32) -> Result<()> {
        match code {
            0 => Ok(()),
            code => Err(Error::Launch { kernel, source: Self(code) }),
        }
    }
}

impl fmt::Display for LaunchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let says = match self.0 {
            1 => "invalid value",
            2 => "out of memory",
            9 => "invalid launch configuration",
            35 => "the driver is older than the CUDA runtime, or there is none",
            98 => "no such kernel on this device",
            100 => "no device",
            209 => "the kernels were not built for this device's architecture",
            701 => "too many resources asked for",
            719 => "an earlier launch failed",
            801 => "not supported on this device",
            _ => "see the CUDA runtime's error codes",
        };
        write!(f, "CUDA error {}: {says}", self.0)
    }
}

impl std::error::Error for LaunchError {}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn a_launcher_s_code_is_kept_as_the_source() {
        assert_eq!(LaunchError::check("select", 0), Ok(()));
        let error = LaunchError::check("select", 209).unwrap_err();
        assert!(error.source().is_some_and(|source| source.to_string().contains("209")));
    }
}
