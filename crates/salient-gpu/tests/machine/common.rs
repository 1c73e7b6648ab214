//! A kernel from a body, and its launch.

use std::fmt::Write;

use salient_gpu::{Counters, Fault, FaultKind, Gpu, Launch};

/// A launch of a kernel that has only a body.
///
/// The body finds its thread's number in the launch in `%r0`, the number in its block in `%r31`,
/// the address of the thread's word of output in `%d0`, the whole output in `%d1`, the input in
/// `%d2`; all in global memory. What it leaves in `%r1` is stored as the thread's word, unless it
/// exits before.
#[derive(Clone, Copy)]
pub(crate) struct Case<'a> {
    pub(crate) config: &'a str,
    pub(crate) target: &'a str,
    /// At module scope.
    pub(crate) module: &'a str,
    /// Behind the entry's parameters.
    pub(crate) directives: &'a str,
    pub(crate) body: &'a str,
    pub(crate) input: &'a [u32],
    /// Words of output; 0: as many as threads.
    pub(crate) output: usize,
    pub(crate) grid: [u32; 3],
    pub(crate) block: [u32; 3],
    pub(crate) cluster: [u32; 3],
    pub(crate) dynamic_shared: u32,
    pub(crate) cooperative: bool,
}

impl Default for Case<'_> {
    fn default() -> Self {
        Self {
            config: "",
            target: "sm_90a",
            module: "",
            directives: "",
            body: "",
            input: &[],
            output: 0,
            grid: [1; 3],
            block: [32, 1, 1],
            cluster: [1; 3],
            dynamic_shared: 0,
            cooperative: false,
        }
    }
}

/// What a launch has left.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) output: Vec<u32>,
    pub(crate) counters: Counters,
}

/// What output holds before.
pub(crate) const UNTOUCHED: u32 = 0xdead_beef;

impl Case<'_> {
    /// The module's text.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        let Self { target, module, directives, body, .. } = self;
        let prelude = "
            .reg .pred %p<32>; .reg .b16 %h<64>; .reg .b32 %r<256>; .reg .b64 %d<96>;
            .reg .f32 %f<256>; .reg .f64 %e<64>;
            ld.param.u64 %d1, [k_param_0]; ld.param.u64 %d2, [k_param_1];
            mov.u32 %r250, %tid.x; mov.u32 %r251, %tid.y; mov.u32 %r252, %tid.z;
            mov.u32 %r253, %ntid.x; mov.u32 %r254, %ntid.y;
            mad.lo.u32 %r31, %r252, %r254, %r251; mad.lo.u32 %r31, %r31, %r253, %r250;
            mov.u32 %r250, %ctaid.x; mov.u32 %r251, %ctaid.y; mov.u32 %r252, %ctaid.z;
            mov.u32 %r253, %nctaid.x; mov.u32 %r254, %nctaid.y;
            mad.lo.u32 %r0, %r252, %r254, %r251; mad.lo.u32 %r0, %r0, %r253, %r250;
            mov.u32 %r250, %ntid.x; mov.u32 %r251, %ntid.y; mov.u32 %r252, %ntid.z;
            mul.lo.u32 %r250, %r250, %r251; mul.lo.u32 %r250, %r250, %r252;
            mad.lo.u32 %r0, %r0, %r250, %r31;
            mad.wide.u32 %d0, %r0, 4, %d1;
            mov.u32 %r1, 0;";
        write!(
            text,
            ".version 8.8\n.target {target}\n.address_size 64\n{module}\n\
             .visible .entry k(.param .u64 k_param_0, .param .u64 k_param_1)\n{directives}\n\
             {{{prelude}\n{body}\nst.global.u32 [%d0], %r1;\nret;\n}}\n"
        )
        .unwrap();
        text
    }

    /// The line of the module's text that holds these words; the only one.
    pub(crate) fn line(&self, words: &str) -> u32 {
        let text = self.text();
        let lines: Vec<usize> = (1..)
            .zip(text.lines())
            .filter(|(_, line)| line.contains(words))
            .map(|(number, _)| number)
            .collect();
        assert_eq!(lines.len(), 1, "{words} on lines {lines:?}");
        lines[0] as u32
    }

    fn threads(&self) -> usize {
        self.grid.iter().chain(&self.block).map(|&n| n as usize).product()
    }

    /// Launches it on a GPU of its own.
    pub(crate) fn run(&self) -> Result<Done, Fault> {
        let gpu = Gpu::new(0, self.config.parse().unwrap());
        self.run_on(&gpu)
    }

    /// Launches it.
    pub(crate) fn run_on(&self, gpu: &Gpu) -> Result<Done, Fault> {
        let module = gpu.load(&self.text()).unwrap_or_else(|error| {
            panic!("{error}\n{}", self.text());
        });
        let kernel = module.kernel("k").unwrap();
        let words = if self.output == 0 { self.threads() } else { self.output };
        let output = upload(gpu, &vec![UNTOUCHED; words]);
        let input = upload(gpu, self.input);
        let mut params = output.to_le_bytes().to_vec();
        params.extend(input.to_le_bytes());
        let launch = Launch {
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            cluster: self.cluster,
            cooperative: self.cooperative,
        };
        let counters = gpu.launch(&kernel, &launch, &params)?;
        Ok(Done { output: download(gpu, output, words), counters })
    }

    /// The output of a launch that goes well.
    #[track_caller]
    pub(crate) fn output(&self) -> Vec<u32> {
        self.run().unwrap_or_else(|fault| panic!("{fault}")).output
    }

    /// The fault of one that does not.
    #[track_caller]
    pub(crate) fn fault(&self, kind: FaultKind) -> Fault {
        let fault = self.run().expect_err("a fault is expected");
        assert_eq!(fault.kind, kind, "{fault}");
        fault
    }
}

pub(crate) fn upload(gpu: &Gpu, words: &[u32]) -> u64 {
    let address = gpu.memory().allocate(4 * words.len() as u64).unwrap();
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    gpu.memory().write(address, &bytes).unwrap();
    address
}

pub(crate) fn download(gpu: &Gpu, address: u64, words: usize) -> Vec<u32> {
    let mut bytes = vec![0; 4 * words];
    gpu.memory().read(address, &mut bytes).unwrap();
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

/// The word of every thread.
pub(crate) fn words(threads: u32, f: impl FnMut(u32) -> u32) -> Vec<u32> {
    (0..threads).map(f).collect()
}
