//! **select** on the emulated device.

use std::ffi::{c_int, c_void};

use salient::host::select::{Budget, PerSequence, Request};
use salient::kernels::raw::SalientSelectParams;
use salient::kernels::select::{SelectBuffers, SelectPlan, Variant, params};
use salient::kernels::{Buffer as Place, Fault, Status};
use salient::{Ragged, Result};
use salient_oracle::implementation::{Sample, Select};
use salient_oracle::select::Selected;

use crate::emulated::Emulated;
use crate::launch::{Device, Launched};
use crate::memory::{Buffer, place};

unsafe extern "C" {
    fn salient_emulated_select(params: *const SalientSelectParams, stream: *mut c_void) -> c_int;
    fn salient_mutated_select(params: *const SalientSelectParams, stream: *mut c_void) -> c_int;
}

/// What a device holds after a selection.
#[derive(Debug, Clone, PartialEq)]
pub struct SelectOutputs {
    /// `[rows, capacity]`.
    pub kept: Vec<i32>,
    /// `[rows]`.
    pub kept_lens: Vec<i32>,
    /// `[rows, capacity]`.
    pub kept_positions: Vec<i32>,
    /// `[heads, total]`.
    pub inverse: Vec<i32>,
    /// `[rows + 1]`.
    pub cu_kept: Vec<i32>,
    /// What was found wrong.
    pub status: Status,
    /// The kernels that ran.
    pub launched: Vec<Launched>,
}

/// The buffers of a selection, which tests may fill with what a device could hold.
#[derive(Debug)]
pub struct SelectRun {
    plan: SelectPlan,
    scores: Buffer<f32>,
    /// i32 `[batch + 1]`.
    pub cu_seqlens: Buffer<i32>,
    counts: Option<Buffer<i32>>,
    edges: Option<[Buffer<i32>; 2]>,
    mask: Option<Buffer<u8>>,
    positions: Buffer<i32>,
}

impl SelectRun {
    /// Uploads what a request says. Token `i` of the batch gets the position [`position_of`]`(i)`.
    pub fn new(device: &Device, plan: SelectPlan, scores: &[f32], request: &Request<'_>) -> Self {
        let clamp = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let counts = match request.budget {
            Budget::Count(PerSequence::Each(counts)) => {
                Some(counts.iter().map(|&count| clamp(count)).collect::<Vec<_>>())
            }
            _ => None,
        };
        let edges = match request.protect.edges {
            PerSequence::Each(edges) => Some([
                edges.iter().map(|edges| clamp(edges.sinks)).collect::<Vec<_>>(),
                edges.iter().map(|edges| clamp(edges.recent)).collect(),
            ]),
            PerSequence::All(_) => None,
        };
        let mask = request.protect.mask.map(|mask| mask.iter().map(|&m| u8::from(m)));
        let positions: Vec<i32> = (0..request.rows.total()).map(position_of).collect();
        Self {
            plan,
            scores: device.upload("scores", scores),
            cu_seqlens: device.upload("cu_seqlens", request.rows.cu_seqlens()),
            counts: counts.map(|counts| device.upload("counts", &counts)),
            edges: edges.map(|[sinks, recent]| {
                [device.upload("sinks", &sinks), device.upload("recent", &recent)]
            }),
            mask: mask.map(|mask| device.upload("mask", &mask.collect::<Vec<_>>())),
            positions: device.upload("positions", &positions),
        }
    }

    /// Launches, with outputs and workspace poisoned.
    ///
    /// # Errors
    /// Those of [`params`].
    ///
    /// # Panics
    /// On a fault of a kernel.
    pub fn launch(&self, device: &Device, mutated: bool) -> Result<SelectOutputs> {
        let shape = self.plan.shape();
        let (rows, capacity) = (self.plan.rows(), self.plan.capacity());
        let kept = device.alloc::<i32>("kept", rows * capacity);
        let kept_lens = device.alloc::<i32>("kept_lens", rows);
        let kept_positions = device.alloc::<i32>("kept_positions", rows * capacity);
        let inverse = device.alloc::<i32>("inverse", shape.heads * shape.total);
        let cu_kept = device.alloc::<i32>("cu_kept", rows + 1);
        let status = device.upload("status", &Status::CLEAR.words());
        let workspace = device.alloc::<u8>("workspace", self.plan.workspace_bytes());
        let buffers = SelectBuffers {
            scores: place(&self.scores),
            cu_seqlens: place(&self.cu_seqlens),
            counts: self.counts.as_ref().map(place),
            sinks: self.edges.as_ref().map(|[sinks, _]| place(sinks)),
            recent: self.edges.as_ref().map(|[_, recent]| place(recent)),
            mask: self.mask.as_ref().map(place),
            positions: Some(place(&self.positions)),
            kept: place(&kept),
            kept_lens: place(&kept_lens),
            kept_positions: Some(place(&kept_positions)),
            inverse: Some(place(&inverse)),
            cu_kept: Some(place(&cu_kept)),
            status: Place::new(status.address(), 1),
            workspace: Some(place(&workspace)),
        };
        let params = params(&self.plan, &buffers)?;
        let launcher = if mutated { salient_mutated_select } else { salient_emulated_select };
        // SAFETY: the parameters are checked, and every buffer outlives the launch.
        let launched = device.run(|stream| unsafe { launcher(&params, stream) });
        let words = |status: Vec<u32>| Status::from_words([status[0], status[1]]);
        Ok(SelectOutputs {
            launched: launched.unwrap_or_else(|fault| panic!("{fault}")),
            kept: kept.read(),
            kept_lens: kept_lens.read(),
            kept_positions: kept_positions.read(),
            inverse: inverse.read(),
            cu_kept: cu_kept.read(),
            status: words(status.read()),
        })
    }
}

/// The position of token `i` of a batch, unlike any index.
pub fn position_of(i: usize) -> i32 {
    7 * i as i32 + 1000
}

impl Emulated {
    /// Selects, and gives all that the device holds.
    ///
    /// # Errors
    /// Those of [`SelectPlan::of`] and [`params`].
    ///
    /// # Panics
    /// On a fault of a kernel.
    pub fn run_select(&self, scores: &[f32], request: &Request<'_>) -> Result<SelectOutputs> {
        let plan = SelectPlan::of(request)?;
        let plan = plan.with_variant(self.variant).or_else(|_| plan.with_variant(Variant::Auto))?;
        let device = self.device();
        SelectRun::new(&device, plan, scores, request).launch(&device, self.mutant.is_some())
    }
}

impl Select for Emulated {
    fn select(&self, scores: &[f32], request: &Request<'_>) -> Result<Selected> {
        let outputs = self.run_select(scores, request)?;
        outputs.status.check()?;
        Ok(outputs.into_selected(request.rows, request.heads))
    }

    fn sample(&self) -> Sample {
        self.sample
    }
}

impl SelectOutputs {
    /// The lists, once it is checked that the other outputs say the same.
    ///
    /// # Panics
    /// If they do not.
    fn into_selected(self, rows: &Ragged, heads: usize) -> Selected {
        let capacity = self.kept.len().checked_div(self.kept_lens.len()).unwrap_or(0);
        let mut kept = Vec::new();
        for (row, &len) in self.kept_lens.iter().enumerate() {
            let len = usize::try_from(len).expect("a length");
            let list = &self.kept[row * capacity..][..capacity];
            let positions = &self.kept_positions[row * capacity..][..capacity];
            let start = rows.span(row / heads).start;
            for (place, (&token, &position)) in list.iter().zip(positions).enumerate() {
                let expected = if place < len { position_of(start + token as usize) } else { -1 };
                assert_eq!(position, expected, "row {row}: the position in place {place}");
                assert!(place < len || token == -1, "row {row}: {token} behind the last");
            }
            kept.push(list[..len].to_vec());
        }
        let saw_nan = self.status.has(Fault::Nan);
        Selected { kept, inverse: self.inverse, cu_seqlens: self.cu_kept, saw_nan }
    }
}
