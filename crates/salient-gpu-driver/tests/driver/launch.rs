use std::ffi::CString;

use crate::api::{Context, PTX, call, control, get, kernel, launch, ok, read, stream, words};

#[test]
fn parameters_come_one_by_one_or_in_a_buffer() {
    let _context = Context::new();
    let (store, address) = (kernel("store"), words(32));
    ok(launch(store, 1, 32, 0, address, 6));
    assert_eq!(read(address, 32), [6; 32]);
    let buffer = [address, 7];
    let size = 12usize;
    let extra = [1, buffer.as_ptr() as u64, 2, &raw const size as u64, 0];
    let extra = extra.as_ptr() as u64;
    ok(call("cuLaunchKernel", &[store, 1, 1, 1, 16, 1, 1, 0, 0, 0, extra]));
    assert_eq!(read(address, 17), [vec![7; 16], vec![6]].concat());
    let short = 8usize;
    let extra = [1, buffer.as_ptr() as u64, 2, &raw const short as u64, 0];
    let extra = extra.as_ptr() as u64;
    assert_eq!(call("cuLaunchKernel", &[store, 1, 1, 1, 16, 1, 1, 0, 0, 0, extra]), 1);
    assert_eq!(call("cuLaunchKernel", &[store, 1, 1, 1, 16, 1, 1, 0, 0, 0, 0]), 1);
    let params = [0u64; 2];
    let params = params.as_ptr() as u64;
    assert_eq!(call("cuLaunchKernel", &[store, 1, 1, 1, 16, 1, 1, 0, 0, params, 0]), 1);
}

#[test]
fn launches_beyond_the_limits_are_refused() {
    let _context = Context::new();
    let bounded = kernel("bounded");
    let launch = |grid: u64, block: u64, shared: u64| {
        call("cuLaunchKernel", &[bounded, grid, 1, 1, block, 1, 1, shared, 0, 0, 0])
    };
    ok(launch(1, 64, 0));
    assert_eq!(launch(1, 65, 0), 1);
    assert_eq!(launch(0, 64, 0), 1);
    assert_eq!(launch(1, 0, 0), 1);
    ok(launch(1, 64, 48 << 10));
    assert_eq!(launch(1, 64, (48 << 10) + 1), 1);
    assert_eq!(call("cuFuncSetAttribute", &[bounded, 8, (227 << 10) + 1]), 1);
    assert_eq!(call("cuFuncSetAttribute", &[bounded, 8, u64::MAX]), 1);
    ok(call("cuFuncSetAttribute", &[bounded, 8, 227 << 10]));
    ok(launch(1, 64, 227 << 10));
    assert_eq!(get::<i32>("cuFuncGetAttribute", &[8, bounded]), 227 << 10);
    assert_eq!(get::<i32>("cuFuncGetAttribute", &[0, bounded]), 64);
    assert_eq!(get::<i32>("cuFuncGetAttribute", &[6, bounded]), 90);
    let cooperative = |grid: u64, shared: u64| {
        call("cuLaunchCooperativeKernel", &[bounded, grid, 1, 1, 64, 1, 1, shared, 0, 0])
    };
    // One block of 227 KiB fits into each of 132 multiprocessors.
    ok(cooperative(132, 227 << 10));
    assert_eq!(cooperative(133, 227 << 10), 720);
    let resident: i32 =
        get("cuOccupancyMaxActiveBlocksPerMultiprocessor", &[bounded, 64, 227 << 10]);
    assert_eq!(resident, 1);
}

#[test]
fn clusters_are_asked_for_by_attribute() {
    let _context = Context::new();
    let bounded = kernel("bounded");
    let launch = |grid: u32, cluster: u32| {
        let mut attribute = [0u32; 18];
        attribute[0] = 4;
        attribute[2..5].copy_from_slice(&[cluster, 1, 1]);
        let at = attribute.as_ptr() as u64;
        let mut config = [0u32; 14];
        config[..7].copy_from_slice(&[grid, 1, 1, 64, 1, 1, 0]);
        config[10..12].copy_from_slice(&[at as u32, (at >> 32) as u32]);
        config[12] = 1;
        call("cuLaunchKernelEx", &[config.as_ptr() as u64, bounded, 0, 0])
    };
    ok(launch(16, 8));
    assert_eq!(launch(15, 8), 912);
    assert_eq!(launch(16, 16), 912);
    ok(call("cuFuncSetAttribute", &[bounded, 14, 1]));
    ok(launch(16, 16));
    assert_eq!(call("cuFuncSetAttribute", &[bounded, 11, 2]), 1);
}

#[test]
fn a_fault_stays_with_its_context() {
    let context = Context::new();
    let (trap, address) = (kernel("trap_now"), words(1));
    let event: u64 = get("cuEventCreate", &[0]);
    ok(call("cuLaunchKernel", &[trap, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]));
    assert_eq!(call("cuCtxSynchronize", &[]), 719);
    let mut value = 0u64;
    assert_eq!(call("cuMemAlloc_v2", &[&raw mut value as u64, 4]), 719);
    assert_eq!(call("cuMemcpyDtoH_v2", &[&raw mut value as u64, address, 4]), 719);
    assert_eq!(call("cuStreamSynchronize", &[0]), 719);
    assert_eq!(call("cuEventRecord", &[event, 0]), 719);
    assert_eq!(call("cuCtxSynchronize", &[]), 719);
    assert!(control().faults().contains(r#""kernel":"trap_now""#));
    assert_eq!(get::<u64>("cuCtxGetCurrent", &[]), context.handle);
    // Another context is in order, and so is this thread with it.
    let other = context.another();
    let address = words(1);
    ok(launch(kernel("store"), 1, 1, 0, address, 1));
    assert_eq!(read(address, 1), [1]);
    drop(other);
}

#[test]
fn an_access_outside_of_memory_is_a_fault() {
    let _context = Context::new();
    let (add, address, stream) = (kernel("add"), words(4), stream());
    ok(launch(add, 1, 5, stream, address, 1));
    assert_eq!(call("cuStreamSynchronize", &[stream]), 700);
}

#[test]
fn modules_are_ptx() {
    let _context = Context::new();
    let load = |image: &[u8]| {
        let mut module = 0u64;
        let code = call("cuModuleLoadData", &[&raw mut module as u64, image.as_ptr() as u64]);
        (code, module)
    };
    assert_eq!(load(b"\0").0, 200);
    assert_eq!(load(b"\x7fELF\x02\x01\x01\x00").0, 209);
    assert_eq!(load(b".version 99.0\n.target sm_80\n.address_size 64\n\0").0, 222);
    assert_eq!(load(b"this is no PTX\0").0, 218);
    let newer = format!("{}\0", PTX.replace("sm_80", "sm_100"));
    assert_eq!(load(newer.as_bytes()).0, 209);
    let (code, module) = load(format!("{PTX}\0").as_bytes());
    ok(code);
    let find = |name: &str| {
        let (mut function, name) = (0u64, CString::new(name).unwrap());
        let arguments = [&raw mut function as u64, module, name.as_ptr() as u64];
        (call("cuModuleGetFunction", &arguments), function)
    };
    assert_eq!(find("nothing").0, 500);
    let (code, store) = find("store");
    ok(code);
    assert_eq!(find("store").1, store);
    let (mut address, mut bytes) = (0u64, 0usize);
    let name = c"counter".as_ptr() as u64;
    let to = [&raw mut address as u64, &raw mut bytes as u64, module, name];
    ok(call("cuModuleGetGlobal_v2", &to));
    assert_eq!((bytes, read(address, 1)), (4, vec![0]));
    ok(call("cuModuleUnload", &[module]));
    assert_eq!(call("cuModuleUnload", &[module]), 400);
    assert_eq!(call("cuLaunchKernel", &[store, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]), 400);
    assert_eq!(find("store").0, 400);
}

#[test]
fn launches_are_told_to_their_thread() {
    let _context = Context::new();
    let (store, address) = (kernel("store"), words(64));
    ok(launch(store, 2, 32, 0, address, 1));
    ok(call("cuCtxSynchronize", &[]));
    let launches = control().launches();
    assert!(launches.contains(r#""kernel":"store","grid":[2, 1, 1],"block":[32, 1, 1]"#));
    let others = std::thread::spawn(|| control().launches()).join().unwrap();
    assert_eq!(others, "[]");
    assert!(control().ask("about").unwrap().contains("Software GPU"));
    assert!(control().set("order=sideways").unwrap_err().contains("sideways"));
    assert!(control().set("sm_80").is_err());
    assert!(control().ask("anything").is_err());
}
