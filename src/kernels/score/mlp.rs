//! The predictor: its weights as a device holds them, plans and checks.

use super::super::{
    ALIGNMENT, Buffer, check_16_bits, check_tokens, dtype_code, product, raw, to_i32, to_i64,
};
use crate::checks::check_finite;
use crate::dtype::{DType, Element};
use crate::error::{Error, Result};
use crate::score::{Folded, PredictorWeights};

/// The most channels of a hidden state.
pub const MAX_HIDDEN: usize = 8192;

/// The most units of the predictor's hidden layer.
pub const MAX_WIDTH: usize = 4096;

/// The weights of the SDTP predictor ([`crate::host::score::Predictor`]) as the kernel takes them:
/// the norm's weight folded into w1, two outputs folded into one, and w1 rounded once to `T`, the
/// hidden states' type, f16 or bf16.
#[derive(Debug, Clone, PartialEq)]
pub struct MlpWeights<T> {
    w1: Vec<T>,
    b1: Vec<f32>,
    w2: Vec<f32>,
    shape: MlpShape,
}

/// What the host keeps of a predictor whose weights lie on a device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlpShape {
    hidden: usize,
    width: usize,
    b2: f32,
    eps: Option<f32>,
    dtype: DType,
}

impl<T: Element> MlpWeights<T> {
    /// Folds and rounds the weights of a predictor for hidden states of `hidden` channels.
    ///
    /// # Errors
    /// Those of [`crate::host::score::Predictor::new`] and of [`check_mlp`]; [`Error::NotFinite`]
    /// for a weight beyond the range of `T`.
    pub fn new(hidden: usize, weights: PredictorWeights) -> Result<Self> {
        let Folded { w1, b1, w2, b2, eps } = weights.fold(hidden)?;
        let (width, dtype) = (b1.len(), T::DTYPE);
        check_mlp(hidden, width, dtype)?;
        let w1: Vec<T> = w1.into_iter().map(T::from_f32).collect();
        check_finite("predictor w1, rounded", &widened(&w1))?;
        Ok(Self { w1, b1, w2, shape: MlpShape { hidden, width, b2, eps, dtype } })
    }

    /// `[width, hidden]`.
    pub fn w1(&self) -> &[T] {
        &self.w1
    }

    /// `[width]`.
    pub fn b1(&self) -> &[f32] {
        &self.b1
    }

    /// `[width]`.
    pub fn w2(&self) -> &[f32] {
        &self.w2
    }

    /// The rest, which launches need.
    pub fn shape(&self) -> MlpShape {
        self.shape
    }

    /// The weights that scores really come from, rounding and folding done: what a comparison with
    /// the host or an oracle must use.
    pub fn as_used(&self) -> PredictorWeights {
        let norm = self.shape.eps.map(|eps| (vec![1.0; self.shape.hidden], eps));
        PredictorWeights {
            w1: widened(&self.w1),
            b1: self.b1.clone(),
            w2: self.w2.clone(),
            b2: vec![self.shape.b2],
            norm,
        }
    }
}

impl MlpShape {
    /// Channels of a hidden state.
    pub fn hidden(&self) -> usize {
        self.hidden
    }

    /// Units between the two layers.
    pub fn width(&self) -> usize {
        self.width
    }

    /// The type of hidden states and of w1.
    pub fn dtype(&self) -> DType {
        self.dtype
    }
}

/// The scoring of a number of hidden states.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MlpPlan {
    shape: MlpShape,
    tokens: usize,
    x_stride: usize,
    workspace_bytes: usize,
}

impl MlpPlan {
    /// A plan for `tokens` hidden states, one after the other.
    ///
    /// # Errors
    /// [`Error::Overflow`] for more tokens than an i32 counts.
    pub fn new(shape: MlpShape, tokens: usize) -> Result<Self> {
        check_tokens("tokens", tokens)?;
        let tiles = shape.width.div_ceil(raw::SALIENT_MLP_TILE as usize);
        let workspace_bytes = product("workspace", &[tiles, tokens, size_of::<f32>()])?;
        Self { shape, tokens, x_stride: 0, workspace_bytes }.with_x_stride(shape.hidden)
    }

    /// Puts hidden states `stride` elements apart.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if they would overlap or `stride` is no multiple of 8,
    /// [`Error::Overflow`] if the buffer grows too large.
    pub fn with_x_stride(self, stride: usize) -> Result<Self> {
        if stride < self.shape.hidden || !stride.is_multiple_of(8) {
            let (what, value) = ("stride of the hidden states", stride as f64);
            let expected = "a multiple of 8 and no less than the channels";
            return Err(Error::OutOfRange { what, value, expected });
        }
        product("x", &[self.tokens, stride, 2])?;
        Ok(Self { x_stride: stride, ..self })
    }

    /// The predictor that it is for.
    pub fn shape(&self) -> MlpShape {
        self.shape
    }

    /// Hidden states.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Bytes of workspace, for partial sums; they start on a multiple of [`ALIGNMENT`]. What they
    /// hold does not matter, before or after.
    pub fn workspace_bytes(&self) -> usize {
        self.workspace_bytes
    }
}

/// Where a scoring's buffers lie. Lengths are in elements and exact, but for the workspace and for
/// hidden states with a stride.
#[derive(Debug, Clone, Copy, Default)]
pub struct MlpBuffers {
    /// f16 or bf16 `[tokens, x_stride]`, the last token's `[hidden]`; on a multiple of
    /// [`ALIGNMENT`].
    pub x: Buffer,
    /// [`MlpWeights::w1`], on a multiple of [`ALIGNMENT`].
    pub w1: Buffer,
    /// [`MlpWeights::b1`].
    pub b1: Buffer,
    /// [`MlpWeights::w2`].
    pub w2: Buffer,
    /// f32 `[tokens]`, written.
    pub scores: Buffer,
    /// i32 `[1]`: how many tokens there are, if fewer than planned; the rest score -inf.
    pub valid: Option<Buffer>,
    /// u8, at least [`MlpPlan::workspace_bytes`].
    pub workspace: Buffer,
}

/// Checks the buffers and makes the launcher's parameters.
///
/// # Errors
/// [`Error::LengthMismatch`], [`Error::Misaligned`].
pub fn mlp_params(plan: &MlpPlan, buffers: &MlpBuffers) -> Result<raw::SalientMlpParams> {
    let MlpPlan { shape, tokens, x_stride, workspace_bytes } = *plan;
    let MlpShape { hidden, width, b2, eps, dtype } = shape;
    let x_len = if tokens == 0 { 0 } else { (tokens - 1) * x_stride + hidden };
    if x_stride == hidden {
        buffers.x.exactly::<u8>("x", x_len)?;
    } else {
        buffers.x.holds("x", x_len)?;
    }
    buffers.w1.exactly::<u8>("predictor w1", product("predictor w1", &[width, hidden])?)?;
    buffers.workspace.holds("workspace", workspace_bytes)?;
    Ok(raw::SalientMlpParams {
        x: buffers.x.placed("x", 2, ALIGNMENT)?,
        w1: buffers.w1.placed("predictor w1", 2, ALIGNMENT)?,
        b1: buffers.b1.exactly("predictor b1", width)?,
        w2: buffers.w2.exactly("predictor w2", width)?,
        scores: buffers.scores.exactly("scores", tokens)?,
        partials: buffers.workspace.placed("workspace", 1, ALIGNMENT)?,
        valid: Buffer::optional(buffers.valid, "number of valid tokens", 1)?,
        x_stride: to_i64("stride of the hidden states", x_stride)?,
        b2,
        eps: eps.unwrap_or(0.0),
        norm: eps.is_some().into(),
        tokens: to_i32("tokens", tokens)?,
        hidden: to_i32("predictor hidden size", hidden)?,
        width: to_i32("predictor width", width)?,
        dtype: dtype_code(dtype),
    })
}

/// Checks that the kernel takes a predictor of this shape, for hidden states of this type.
///
/// # Errors
/// [`Error::OutOfRange`] unless `hidden` is a multiple of 8 up to [`MAX_HIDDEN`], the width at most
/// [`MAX_WIDTH`] and the type f16 or bf16.
pub fn check_mlp(hidden: usize, width: usize, dtype: DType) -> Result<()> {
    let out_of_range =
        |what, value, expected| Err(Error::OutOfRange { what, value: value as f64, expected });
    if hidden > MAX_HIDDEN || !hidden.is_multiple_of(8) {
        return out_of_range("predictor hidden size", hidden, "a multiple of 8 up to 8192");
    }
    if width > MAX_WIDTH {
        return out_of_range("predictor width", width, "at most 4096");
    }
    check_16_bits("bits of a predictor weight", dtype)
}

fn widened<T: Element>(values: &[T]) -> Vec<f32> {
    let mut wide = vec![0.0; values.len()];
    T::widen(values, &mut wide);
    wide
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::*;

    fn weights(hidden: usize, width: usize, outputs: usize) -> PredictorWeights {
        let values = |len: usize| (0..len).map(|i| ((i * 37 % 101) as f32 - 50.0) / 64.0).collect();
        PredictorWeights {
            w1: values(width * hidden),
            b1: values(width),
            w2: values(outputs * width),
            b2: values(outputs),
            norm: Some((values(hidden), 1e-5)),
        }
    }

    fn at(len: usize) -> Buffer {
        Buffer::new(0x1000, len)
    }

    #[test]
    fn used_weights_are_the_folded_ones_rounded_once() {
        let given = weights(16, 5, 2);
        let prepared = MlpWeights::<bf16>::new(16, given.clone()).unwrap();
        let gamma = &given.norm.as_ref().unwrap().0;
        for (i, w) in prepared.w1().iter().enumerate() {
            assert_eq!(*w, bf16::from_f32(given.w1[i] * gamma[i % 16]));
        }
        assert_eq!(prepared.w2()[1], given.w2[1] - given.w2[6]);
        let used = prepared.as_used();
        assert_eq!(MlpWeights::<bf16>::new(16, used).unwrap(), prepared);
    }

    #[test]
    fn weights_that_the_kernel_cannot_take_are_refused() {
        assert!(check_mlp(64, 8, DType::F16).is_ok());
        assert!(check_mlp(64, 8, DType::F8E4M3).is_err());
        assert!(MlpWeights::<f16>::new(16, weights(16, 4, 1)).is_ok());
        assert!(MlpWeights::<f32>::new(16, weights(16, 4, 1)).is_err());
        assert!(MlpWeights::<f16>::new(12, weights(12, 4, 1)).is_err());
        assert!(MlpWeights::<f16>::new(0, weights(0, 4, 1)).is_err());
        assert!(MlpWeights::<f16>::new(8200, weights(8200, 1, 1)).is_err());
        assert!(MlpWeights::<f16>::new(8, weights(8, 4097, 1)).is_err());
        assert!(MlpWeights::<f16>::new(16, weights(8, 4, 1)).is_err());
        let mut large = weights(16, 4, 1);
        large.w1[3] = 1e6;
        large.norm = None;
        let rounded = MlpWeights::<f16>::new(16, large.clone());
        let what = "predictor w1, rounded";
        assert_eq!(rounded.unwrap_err(), Error::NotFinite { what, index: 3 });
        assert!(MlpWeights::<bf16>::new(16, large).is_ok());
    }

    fn shape() -> MlpShape {
        MlpWeights::<bf16>::new(16, weights(16, 130, 1)).unwrap().shape()
    }

    fn mlp_buffers(plan: &MlpPlan) -> MlpBuffers {
        MlpBuffers {
            x: at((plan.tokens - 1) * plan.x_stride + 16),
            w1: at(130 * 16),
            b1: at(130),
            w2: at(130),
            scores: at(plan.tokens),
            valid: Some(at(1)),
            workspace: at(plan.workspace_bytes()),
        }
    }

    #[test]
    fn good_mlp_buffers_become_parameters() {
        let plan = MlpPlan::new(shape(), 10).unwrap();
        assert_eq!(plan.workspace_bytes(), 2 * 10 * 4);
        let raw = mlp_params(&plan, &mlp_buffers(&plan)).unwrap();
        assert_eq!((raw.tokens, raw.hidden, raw.width, raw.norm), (10, 16, 130, 1));
        assert_eq!((raw.dtype, raw.x_stride, raw.eps), (2, 16, 1e-5));
        let wide = plan.with_x_stride(24).unwrap();
        assert_eq!(mlp_params(&wide, &mlp_buffers(&wide)).unwrap().x_stride, 24);
        let longer = MlpBuffers { x: at(10 * 24), valid: None, ..mlp_buffers(&wide) };
        assert!(mlp_params(&wide, &longer).unwrap().valid.is_null());
        let none = MlpPlan::new(shape(), 0).unwrap();
        let buffers = MlpBuffers { x: at(0), scores: at(0), ..mlp_buffers(&plan) };
        assert_eq!(mlp_params(&none, &buffers).unwrap().tokens, 0);
    }

    #[test]
    fn bad_mlp_buffers_are_refused() {
        for plan in [
            MlpPlan::new(shape(), 10).unwrap(),
            MlpPlan::new(shape(), 10).unwrap().with_x_stride(32).unwrap(),
        ] {
            let good = mlp_buffers(&plan);
            type Field = fn(&mut MlpBuffers) -> &mut Buffer;
            let fields: [(Field, usize); 7] = [
                (|b| &mut b.x, 16),
                (|b| &mut b.w1, 16),
                (|b| &mut b.b1, 4),
                (|b| &mut b.w2, 4),
                (|b| &mut b.scores, 4),
                (|b| b.valid.as_mut().unwrap(), 4),
                (|b| &mut b.workspace, 16),
            ];
            for (field, align) in fields {
                let mut short = good;
                field(&mut short).len -= 1;
                let error = mlp_params(&plan, &short);
                assert!(matches!(error, Err(Error::LengthMismatch { .. })), "{error:?}");
                let mut askew = good;
                field(&mut askew).address += align / 2;
                let error = mlp_params(&plan, &askew);
                assert!(matches!(error, Err(Error::Misaligned { .. })), "{error:?}");
            }
        }
        let plan = MlpPlan::new(shape(), 10).unwrap();
        for stride in [8, 20, usize::MAX - 7] {
            assert!(plan.with_x_stride(stride).is_err());
        }
        assert!(MlpPlan::new(shape(), 1 << 31).is_err());
    }
}
