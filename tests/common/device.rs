//! The device backend as an implementation of the conformance suite.

#[path = "device/attend.rs"]
mod attend;
#[path = "device/attention.rs"]
mod attention;
#[path = "device/expected.rs"]
mod expected;
#[path = "device/indexer.rs"]
mod indexer;
#[path = "device/rank.rs"]
mod rank;

use std::env;
use std::sync::Arc;

use half::{bf16, f16};
use salient::compact::{KvLayout, KvMode};
use salient::cuda::compact::{self, KvLists, KvOutputs, KvTable, RowTensor};
use salient::cuda::cudarc::driver::{
    CudaContext, CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DeviceRepr,
    ValidAsZeroBits,
};
use salient::cuda::score::Predictor;
use salient::cuda::{
    Array, DeviceElement, DeviceSelection, FreedPages, Place, Session, StatusWord, TensorView,
    bytes, bytes_mut,
};
use salient::kernels::attend::PrefillVariant;
use salient::kernels::compact::{KvPlan, KvShape};
use salient::kernels::score::{MlpWeights, check_mlp};
use salient::kernels::select::Variant;
use salient::kernels::validate::Pages;
use salient::score::{Per, PredictorWeights};
use salient::select::{PerSequence, Request, Selection};
use salient::{
    DType, Element, Error, Fault, Layout, PagedLayout, Ragged, Result, Span, Status, View,
};
use salient_oracle::compact::Kept;
use salient_oracle::implementation::{Compact, Sample, Score, Select};
use salient_oracle::select::Selected;
use salient_oracle::tensor::Sums;

/// The device backend.
pub(crate) struct Device {
    pub(crate) stream: Arc<CudaStream>,
    /// The kernel that selects, where the rows are short enough for it.
    pub(crate) variant: Variant,
    /// The kernels of prefill.
    pub(crate) prefill: PrefillVariant,
    /// How its tensor cores add up.
    pub(crate) sums: Sums,
    /// The cases of the suite that it runs, of those suites that have many.
    pub(crate) sample: Sample,
}

impl Device {
    /// The first device. `SALIENT_SAMPLE`, a [`Sample`], has it run a share of the suite's cases:
    /// the software GPU takes long over each.
    pub(crate) fn new(variant: Variant) -> Result<Self> {
        Self::numbered(0, variant)
    }

    pub(crate) fn numbered(device: usize, variant: Variant) -> Result<Self> {
        let context = CudaContext::new(device)?;
        let sums = Sums::of_capability(context.compute_capability()?.0);
        let stream = context.new_stream()?;
        let sample = env::var("SALIENT_SAMPLE")
            .map_or(Sample::ALL, |text| text.parse().unwrap_or_else(|error| panic!("{error}")));
        Ok(Self { stream, variant, prefill: PrefillVariant::Auto, sums, sample })
    }

    /// The major number of its compute capability.
    pub(crate) fn generation(&self) -> Result<i32> {
        Ok(self.stream.context().compute_capability()?.0)
    }

    /// A session of its own.
    pub(crate) fn session(&self) -> Result<Session> {
        Ok(Session::new(&self.stream)?.with_variants(self.variant, self.prefill))
    }

    /// Copies scores to where they are wanted, once the session is finished without a fault.
    fn give(&self, session: &mut Session, scores: &Array<f32>, out: &mut [f32]) -> Result<()> {
        session.finish()?.check()?;
        let (what, expected, actual) = ("out", scores.len(), out.len());
        if expected != actual {
            return Err(Error::LengthMismatch { what, expected, actual });
        }
        out.copy_from_slice(&scores.to_host(&self.stream)?);
        Ok(())
    }

    /// A buffer on the device, which may be empty; drivers do not allocate nothing.
    pub(crate) fn upload<T: DeviceRepr + Default + Clone>(&self, data: &[T]) -> Result<Upload<T>> {
        let mut data = data.to_vec();
        let len = data.len();
        if data.is_empty() {
            data.push(T::default());
        }
        Ok(Upload { slice: self.stream.clone_htod(&data)?, len })
    }

    pub(crate) fn zeros<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> Result<Upload<T>> {
        Ok(Upload { slice: self.stream.alloc_zeros(len.max(1))?, len })
    }

    /// A buffer that nobody has written.
    pub(crate) fn unwritten<T: DeviceRepr>(&self, len: usize) -> Result<Upload<T>> {
        // SAFETY: what it holds is some element, for every type of bits is one; it is a workspace,
        // of which a kernel reads what it wrote there.
        Ok(Upload { slice: unsafe { self.stream.alloc(len.max(1)) }?, len })
    }

    /// Integers that show where nothing was written.
    pub(crate) fn filled(&self, len: usize) -> Result<Upload<i32>> {
        self.upload(&vec![-77; len])
    }

    pub(crate) fn download<T: DeviceRepr + Default + Clone>(
        &self,
        from: &Upload<T>,
    ) -> Result<Vec<T>> {
        let mut data = self.stream.clone_dtoh(&from.slice)?;
        data.truncate(from.len);
        Ok(data)
    }

    /// Runs something with a status word, and returns what it says.
    pub(crate) fn with_status(
        &self,
        run: impl FnOnce(&mut StatusWord) -> Result<()>,
    ) -> Result<Status> {
        let mut status = StatusWord::new(&self.stream)?;
        run(&mut status)?;
        status.read(&self.stream)
    }

    pub(crate) fn upload_values<T: Copy>(
        &self,
        values: PerSequence<'_, T>,
        convert: impl Fn(T) -> usize,
    ) -> Result<Option<Upload<i32>>> {
        let PerSequence::Each(values) = values else { return Ok(None) };
        let clamped = |&value| i32::try_from(convert(value)).unwrap_or(i32::MAX);
        self.upload(&values.iter().map(clamped).collect::<Vec<_>>()).map(Some)
    }
}

/// A buffer of any length, 0 among them.
pub(crate) struct Upload<T> {
    slice: CudaSlice<T>,
    len: usize,
}

impl<T> Upload<T> {
    pub(crate) fn view(&self) -> CudaView<'_, T> {
        self.slice.slice(..self.len)
    }

    pub(crate) fn view_mut(&mut self) -> CudaViewMut<'_, T> {
        self.slice.slice_mut(..self.len)
    }

    /// All but the first elements.
    pub(crate) fn view_from(&self, first: usize) -> CudaView<'_, T> {
        self.slice.slice(first..self.len)
    }

    /// The same, to be written.
    pub(crate) fn view_mut_from(&mut self, first: usize) -> CudaViewMut<'_, T> {
        self.slice.slice_mut(first..self.len)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first address.
    pub(crate) fn address(&self) -> u64 {
        self.slice.device_ptr(self.slice.stream()).0
    }
}

impl<T: DeviceRepr + Default + Clone> Upload<T> {
    pub(crate) fn read(&self) -> Result<Vec<T>> {
        let mut data = self.slice.stream().clone_dtoh(&self.slice)?;
        data.truncate(self.len);
        Ok(data)
    }

    /// Replaces every element.
    pub(crate) fn write(&mut self, data: &[T]) -> Result<()> {
        assert_eq!(data.len(), self.len, "as many as there are");
        let stream = self.slice.stream().clone();
        Ok(stream.memcpy_htod(data, &mut self.view_mut())?)
    }

    /// Replaces one.
    pub(crate) fn put(&mut self, at: usize, value: T) -> Result<()> {
        let mut data = self.read()?;
        data[at] = value;
        self.write(&data)
    }
}

impl Select for Device {
    fn sample(&self) -> Sample {
        self.sample.varied(self.variant as u64)
    }

    fn select(&self, scores: &[f32], request: &Request<'_>) -> Result<Selected> {
        let mut session = self.session()?;
        let positions: Vec<i32> = (0..request.rows.total() as i32).map(|i| 1000 + 3 * i).collect();
        let (scores, there) = (session.upload(scores)?, session.upload(&positions)?);
        let selection = session.select_and(&scores.view(), request, Some(&there.view()), true)?;
        let status = session.finish()?;
        status.check()?;
        let host = |array: &Array<i32>| array.to_host(&self.stream);
        let (padded, lens) = (host(&selection.kept)?, host(&selection.kept_lens)?);
        let padded_positions = host(selection.positions.as_ref().expect("they were asked for"))?;
        let capacity = selection.capacity();
        let mut lists = Vec::new();
        for (row, &len) in lens.iter().enumerate() {
            let (list, rest) = padded[row * capacity..][..capacity].split_at(len as usize);
            assert!(rest.iter().all(|&i| i == -1), "row {row}: padding {rest:?}");
            let start = request.rows.span(row / request.heads).start;
            let expected = list.iter().map(|&i| positions[start + i as usize]);
            let expected = expected.chain(std::iter::repeat_n(-1, rest.len()));
            let actual = &padded_positions[row * capacity..][..capacity];
            assert!(expected.eq(actual.iter().copied()), "row {row}: positions {actual:?}");
            lists.push(list.to_vec());
        }
        Ok(Selected {
            kept: lists,
            inverse: host(selection.inverse.as_ref().expect("it was asked for"))?,
            cu_seqlens: host(&selection.cu_kept)?,
            saw_nan: status.has(Fault::Nan),
        })
    }
}

impl Score for Device {
    fn takes_mlp<T: Element>(&self, hidden: usize, width: usize) -> bool {
        check_mlp(hidden, width, T::DTYPE).is_ok()
    }

    fn mlp_sums(&self) -> Sums {
        self.sums
    }

    fn mlp_weights<T: Element>(
        &self,
        hidden: usize,
        weights: &PredictorWeights,
    ) -> Result<PredictorWeights> {
        Ok(MlpWeights::<T>::new(hidden, weights.clone())?.as_used())
    }

    fn mlp<T: Element>(
        &self,
        x: &[T],
        hidden: usize,
        weights: &PredictorWeights,
        out: &mut [f32],
    ) -> Result<()> {
        match T::DTYPE {
            DType::F32 => self.mlp_of::<f32>(bytemuck::cast_slice(x), hidden, weights, out),
            DType::F16 => self.mlp_of::<f16>(bytemuck::cast_slice(x), hidden, weights, out),
            DType::Bf16 => self.mlp_of::<bf16>(bytemuck::cast_slice(x), hidden, weights, out),
            other => panic!("a type that the device does not know: {other:?}"),
        }
    }

    fn keynorm<T: Element>(&self, k: View<'_, T>, per: Per, out: &mut [f32]) -> Result<()> {
        let (data, layout) = (k.data, k.layout);
        match T::DTYPE {
            DType::F32 => self.keynorm_of::<f32>(bytemuck::cast_slice(data), layout, per, out),
            DType::F16 => self.keynorm_of::<f16>(bytemuck::cast_slice(data), layout, per, out),
            DType::Bf16 => self.keynorm_of::<bf16>(bytemuck::cast_slice(data), layout, per, out),
            other => panic!("a type that the device does not know: {other:?}"),
        }
    }
}

impl Device {
    fn mlp_of<T: DeviceElement + Default>(
        &self,
        x: &[T],
        hidden: usize,
        weights: &PredictorWeights,
        out: &mut [f32],
    ) -> Result<()> {
        let weights = MlpWeights::<T>::new(hidden, weights.clone())?;
        let predictor = Predictor::upload(&self.stream, &weights)?;
        let mut session = self.session()?;
        let x = session.upload(x)?;
        let scores = session.mlp(&predictor, &x.view())?;
        self.give(&mut session, &scores, out)
    }

    fn keynorm_of<T: DeviceElement + Default>(
        &self,
        keys: &[T],
        layout: Layout,
        per: Per,
        out: &mut [f32],
    ) -> Result<()> {
        let tokens = match per {
            Per::Token => out.len(),
            Per::KvHead => out.len() / layout.heads,
        };
        let mut session = self.session()?;
        let keys = session.upload(keys)?;
        let scores = session.keynorm(&TensorView::new(keys.view(), layout), tokens, per)?;
        self.give(&mut session, &scores, out)
    }
}

/// The lists of a selection on the device, with room for `spare` tokens more than the longest has.
fn upload_lists(session: &Session, kept: &Kept<'_>, spare: usize) -> Result<DeviceSelection> {
    let selection = Selection::from_lists(kept.source.clone(), kept.heads, kept.lists)?;
    let capacity = selection.kept_rows().lens().max().unwrap_or(0) + spare;
    session.upload_selection(&selection, capacity)
}

impl Compact for Device {
    fn rows<T: Element>(&self, kept: &Kept<'_>, tensors: &[(&[T], usize)]) -> Result<Vec<Vec<T>>> {
        let mut session = self.session()?;
        let selection = upload_lists(&session, kept, 2)?;
        let (mut buffers, mut row_bytes) = (Vec::new(), Vec::new());
        for (data, width) in tensors {
            let bytes = width * size_of::<T>();
            let source = session.upload::<u8>(bytemuck::cast_slice(data))?;
            buffers.push((source, Array::zeros(&self.stream, selection.kept_total() * bytes)?));
            row_bytes.push(bytes);
        }
        let mut tensors: Vec<RowTensor<'_>> = buffers
            .iter_mut()
            .map(|(src, dst)| RowTensor { src: src.view(), dst: dst.view_mut() })
            .collect();
        session.compact_rows_to(&selection, &mut tensors, &row_bytes)?;
        session.finish()?.check()?;
        buffers.iter().map(|(_, dst)| Ok(elements(&dst.to_host(&self.stream)?))).collect()
    }

    fn rows_in_place<T: Element>(
        &self,
        kept: &Kept<'_>,
        tensors: &mut [(Vec<T>, usize)],
    ) -> Result<()> {
        let mut session = self.session()?;
        let selection = upload_lists(&session, kept, 0)?;
        let buffers = tensors.iter().map(|(data, _)| session.upload(bytemuck::cast_slice(data)));
        let mut buffers: Vec<Array<u8>> = buffers.collect::<Result<_>>()?;
        let row_bytes: Vec<_> = tensors.iter().map(|(_, width)| width * size_of::<T>()).collect();
        let mut views: Vec<_> = buffers.iter_mut().map(Array::view_mut).collect();
        session.compact_rows_in_place(&selection, &mut views, &row_bytes)?;
        session.finish()?.check()?;
        for ((data, width), buffer) in tensors.iter_mut().zip(&buffers) {
            *data = elements(&buffer.to_host(&self.stream)?);
            data.truncate(selection.kept_total() * *width);
        }
        Ok(())
    }

    fn kv<T: Element>(
        &self,
        kept: &Kept<'_>,
        spans: &[Span],
        layout: Layout,
        layers: &mut [[&mut [T]; 2]],
    ) -> Result<()> {
        let mut session = self.session()?;
        let lists = upload_lists(&session, kept, 1)?;
        let tokens = spans.iter().map(|span| span.start.saturating_add(span.len)).max();
        let layout = KvLayout::contiguous(layout, size_of::<T>())?;
        let shape = kv_shape(&lists, layout, layers.len(), KvMode::Stable);
        let plan = KvPlan::contiguous(shape, tokens.unwrap_or(0))?;
        plan.check_spans(kept.source, spans)?;
        let starts: Vec<i32> = spans.iter().map(|span| span.start as i32).collect();
        let starts = session.upload(&starts)?;
        self.kv_of(&mut session, &lists, plan, &Place::Spans(starts.view()), layers).map(drop)
    }

    fn kv_paged<T: Element>(
        &self,
        kept: &Kept<'_>,
        page_table: &[i32],
        layout: PagedLayout,
        layers: &mut [[&mut [T]; 2]],
    ) -> Result<Vec<i32>> {
        let mut session = self.session()?;
        let lists = upload_lists(&session, kept, 0)?;
        let shortest = layers.iter().flatten().map(|cache| cache.len()).min().unwrap_or(0);
        let pages = layout.pages(shortest).ok_or(Error::Overflow { what: "a page" })?;
        let page_size = layout.page_size;
        let max_pages = page_table.len().checked_div(kept.source.batch()).unwrap_or(0);
        let layout = KvLayout::paged(layout, size_of::<T>())?;
        let shape = kv_shape(&lists, layout, layers.len(), KvMode::Stable);
        let plan = KvPlan::paged(shape, Pages { page_size, max_pages, pages })?;
        plan.check_pages(kept.source, page_table)?;
        let table = session.upload(page_table)?;
        let freed = self.kv_of(&mut session, &lists, plan, &Place::Pages(table.view()), layers)?;
        let freed = freed.expect("a paged cache has pages");
        let mut pages = freed.pages.to_host(&self.stream)?;
        pages.truncate(freed.count.to_host(&self.stream)?[0] as usize);
        Ok(pages)
    }
}

fn kv_shape(lists: &DeviceSelection, layout: KvLayout, layers: usize, mode: KvMode) -> KvShape {
    let (batch, list_heads, capacity) = (lists.rows().batch(), lists.heads(), lists.capacity());
    KvShape { batch, layers, list_heads, capacity, keys: layout, values: layout, mode }
}

impl Device {
    /// Compacts copies of the caches on the device, and copies them back if all went well.
    fn kv_of<T: Element>(
        &self,
        session: &mut Session,
        lists: &DeviceSelection,
        plan: KvPlan,
        place: &Place<'_>,
        layers: &mut [[&mut [T]; 2]],
    ) -> Result<Option<FreedPages>> {
        let mut buffers = Vec::new();
        for [keys, values] in layers.iter() {
            let upload = |cache: &[T]| session.upload::<u8>(bytemuck::cast_slice(cache));
            buffers.push([upload(keys)?, upload(values)?]);
        }
        let mut views: Vec<_> =
            buffers.iter_mut().map(|pair| pair.each_mut().map(Array::view_mut)).collect();
        let table = KvTable::new(&self.stream, plan, &mut views)?;
        let freed = session.compact_kv(lists, &table, &mut views, place)?;
        session.finish()?.check()?;
        for (caches, buffers) in layers.iter_mut().zip(&buffers) {
            for (cache, buffer) in caches.iter_mut().zip(buffers) {
                cache.copy_from_slice(&elements(&buffer.to_host(&self.stream)?));
            }
        }
        Ok(freed)
    }

    /// Fills the holes of one cache, `[tokens, width]` of u32 and a single sequence, with the
    /// survivors behind them; returns the order of its tokens.
    pub(crate) fn hole_fill(
        &self,
        list: &[i32],
        cache: &mut [u32],
        width: usize,
    ) -> Result<Vec<i32>> {
        let source = Ragged::from_lens(&[cache.len() / width])?;
        let lists = [list.to_vec()];
        let session = self.session()?;
        let lists = upload_lists(&session, &Kept { source: &source, heads: 1, lists: &lists }, 0)?;
        let lens = session.upload(&[source.total() as i32])?;
        let layout = KvLayout::contiguous(Layout::token_major(1, width), size_of::<u32>())?;
        let shape = kv_shape(&lists, layout, 1, KvMode::HoleFill);
        let plan = KvPlan::contiguous(shape, source.total())?;
        let (starts, mut order) = (self.upload(&[0])?, self.zeros(list.len())?);
        let (mut keys, mut values) = (self.upload(cache)?, self.upload(cache)?);
        self.with_status(|status| {
            let (mut keys, mut values) = (keys.view_mut(), values.view_mut());
            let mut views = [[bytes_mut(&mut keys), bytes_mut(&mut values)]];
            let table = KvTable::new(&self.stream, plan, &mut views)?;
            let lists = KvLists {
                kept: lists.kept.view(),
                kept_lens: lists.kept_lens.view(),
                lens: lens.view(),
                span_starts: Some(starts.view()),
                page_table: None,
            };
            let mut outputs = KvOutputs { order: Some(order.view_mut()), ..KvOutputs::default() };
            compact::kv(&self.stream, &table, &mut views, &lists, &mut outputs, status)
        })?
        .check()?;
        assert_eq!(self.download(&keys)?, self.download(&values)?);
        cache.copy_from_slice(&self.download(&keys)?);
        self.download(&order)
    }

    /// Copies a buffer through the views of bytes.
    pub(crate) fn bytes_of(&self, data: &[f32]) -> Result<Vec<u8>> {
        let data = self.upload(data)?;
        Ok(self.stream.clone_dtoh(&bytes(&data.view()))?)
    }
}

fn elements<T: Element>(bytes: &[u8]) -> Vec<T> {
    let mut elements = vec![T::from_f32(0.0); bytes.len() / size_of::<T>()];
    bytemuck::cast_slice_mut(&mut elements).copy_from_slice(bytes);
    elements
}
