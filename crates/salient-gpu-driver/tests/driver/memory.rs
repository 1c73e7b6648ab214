use std::ffi::c_void;

use crate::api::{Context, call, get, ok, read, stream, words};

#[test]
fn what_is_copied_there_is_copied_back() {
    let _context = Context::new();
    let address = words(4);
    let values = [1u32, 2, 3, 4];
    ok(call("cuMemcpyHtoD_v2", &[address, values.as_ptr() as u64, 16]));
    assert_eq!(read(address, 4), values);
    let copy = words(4);
    ok(call("cuMemcpyDtoD_v2", &[copy, address, 16]));
    assert_eq!(read(copy + 8, 2), [3, 4]);
    let mut back = [0u32; 4];
    ok(call("cuMemcpy", &[back.as_mut_ptr() as u64, copy, 16]));
    assert_eq!(back, values);
    ok(call("cuMemcpyHtoD_v2", &[address, values.as_ptr() as u64, 0]));
}

#[test]
fn what_is_not_memory_is_refused() {
    let _context = Context::new();
    let address = words(4);
    let mut values = [0u32; 8];
    let host = values.as_mut_ptr() as u64;
    for (to, bytes) in [(address, 17), (address + 4, 16), (address - 4, 4), (0, 4), (host, 4)] {
        assert_eq!(call("cuMemcpyHtoD_v2", &[to, host, bytes]), 1, "{to:#x}, {bytes} bytes");
        assert_eq!(call("cuMemcpyDtoH_v2", &[host, to, bytes]), 1, "{to:#x}, {bytes} bytes");
        assert_eq!(call("cuMemsetD8_v2", &[to, 0, bytes]), 1, "{to:#x}, {bytes} bytes");
        assert_eq!(call("cuMemsetD8Async", &[to, 0, bytes, 0]), 1, "{to:#x}, {bytes} bytes");
    }
    // Null, a device's address, and an address where nothing is, in the host's place.
    for host in [0, address, 8, 0x10_0000] {
        assert_eq!(call("cuMemcpyHtoD_v2", &[address, host, 4]), 1, "{host:#x}");
        assert_eq!(call("cuMemcpyDtoH_v2", &[host, address, 4]), 1, "{host:#x}");
    }
    assert_eq!(call("cuMemsetD32_v2", &[address + 2, 0, 1]), 1);
    assert_eq!(call("cuMemFree_v2", &[address + 4]), 1);
    ok(call("cuMemFree_v2", &[address]));
    assert_eq!(call("cuMemFree_v2", &[address]), 1);
    assert_eq!(call("cuMemcpyHtoD_v2", &[address, host, 4]), 1);
    let mut none = 0u64;
    assert_eq!(call("cuMemAlloc_v2", &[&raw mut none as u64, 0]), 1);
    assert_eq!(call("cuMemAlloc_v2", &[&raw mut none as u64, 1 << 60]), 2);
    assert_eq!(call("cuMemAlloc_v2", &[0, 4]), 1);
}

#[test]
fn memory_is_set_by_values_of_each_size() {
    let _context = Context::new();
    let address = words(4);
    ok(call("cuMemsetD32_v2", &[address, 0x0102_0304, 4]));
    assert_eq!(read(address, 4), [0x0102_0304; 4]);
    ok(call("cuMemsetD16_v2", &[address, 0xabcd, 3]));
    assert_eq!(read(address, 3), [0xabcd_abcd, 0x0102_abcd, 0x0102_0304]);
    ok(call("cuMemsetD8_v2", &[address + 12, 0x55, 4]));
    assert_eq!(read(address + 12, 1), [0x5555_5555]);
}

#[test]
fn rows_are_copied_between_pitches() {
    let _context = Context::new();
    let address = words(16);
    ok(call("cuMemsetD32_v2", &[address, 0, 16]));
    let values: Vec<u32> = (1..=6).collect();
    // Three rows of two words, into rows of four.
    let (to, from) = (address + 4, values.as_ptr() as u64);
    ok(call("cudaMemcpy2D", &[to, 16, from, 8, 8, 3, 1]));
    assert_eq!(read(address, 12), [0, 1, 2, 0, 0, 3, 4, 0, 0, 5, 6, 0]);
    ok(call("cuMemsetD2D32_v2", &[address, 16, 9, 1, 2]));
    assert_eq!(read(address, 12), [9, 1, 2, 0, 9, 3, 4, 0, 0, 5, 6, 0]);
    assert_eq!(call("cudaMemcpy2D", &[to, 4, from, 8, 8, 3, 1]), 1);
    assert_eq!(call("cudaMemcpy2D", &[to, 16, from, 8, 8, 5, 1]), 1);
    assert_eq!(call("cudaMemcpy2D", &[to, 16, from, 8, 8, 3, 7]), 21);
}

#[test]
fn stream_ordered_memory_is_freed_once() {
    let _context = Context::new();
    let stream = stream();
    let address: u64 = get("cuMemAllocAsync", &[16, stream]);
    ok(call("cuMemsetD32Async", &[address, 7, 4, stream]));
    assert_eq!(call("cuMemFreeAsync", &[address + 4, stream]), 1);
    let mut values = [0u32; 4];
    ok(call("cuMemcpyDtoHAsync_v2", &[values.as_mut_ptr() as u64, address, 16, stream]));
    ok(call("cuMemFreeAsync", &[address, stream]));
    assert_eq!(call("cuMemFreeAsync", &[address, stream]), 1);
    ok(call("cuStreamSynchronize", &[stream]));
    assert_eq!(values, [7; 4]);
    assert_eq!(call("cuMemcpyHtoD_v2", &[address, values.as_ptr() as u64, 4]), 1);
}

#[test]
fn host_memory_is_pinned_managed_or_registered() {
    let _context = Context::new();
    let address = words(2);
    ok(call("cuMemsetD32_v2", &[address, 3, 2]));
    let pinned: u64 = get("cuMemHostAlloc", &[8, 0]);
    ok(call("cuMemcpyDtoH_v2", &[pinned, address, 8]));
    // SAFETY: the driver has allocated 8 bytes there.
    assert_eq!(unsafe { *(pinned as *const [u32; 2]) }, [3, 3]);
    assert_eq!(get::<u64>("cuMemHostGetDevicePointer_v2", &[pinned, 0]), pinned);
    assert_eq!(call("cuMemFree_v2", &[pinned]), 1);
    ok(call("cuMemFreeHost", &[pinned]));
    assert_eq!(call("cuMemFreeHost", &[pinned]), 1);

    let managed: u64 = get("cuMemAllocManaged", &[8, 1]);
    ok(call("cuMemsetD32_v2", &[managed, 5, 2]));
    // SAFETY: as above.
    assert_eq!(unsafe { *(managed as *const [u32; 2]) }, [5, 5]);
    assert_eq!(call("cuMemFreeHost", &[managed]), 1);
    ok(call("cuMemFree_v2", &[managed]));

    let mut own = [0u32; 64];
    let pointer = own.as_mut_ptr() as u64;
    ok(call("cuMemHostRegister_v2", &[pointer, 256, 0]));
    assert_eq!(call("cuMemHostRegister_v2", &[pointer + 128, 256, 0]), 712);
    assert_eq!(call("cuMemFreeHost", &[pointer]), 1);
    ok(call("cuMemHostUnregister", &[pointer]));
    assert_eq!(call("cuMemHostUnregister", &[pointer]), 713);
}

#[test]
fn pointers_say_what_they_are() {
    let context = Context::new();
    let address = words(4);
    let get = |attribute: u64, pointer: u64| {
        let mut value = 0u64;
        let code = call("cuPointerGetAttribute", &[&raw mut value as u64, attribute, pointer]);
        (code, value)
    };
    assert_eq!(get(1, address + 4), (0, context.handle));
    assert_eq!(get(2, address + 4), (0, 2));
    assert_eq!(get(11, address + 4), (0, address));
    assert_eq!(get(12, address + 4), (0, 16));
    assert_eq!(get(2, &raw const address as u64).0, 1);
    let mut kinds = [9u64; 9];
    ok(call("cudaPointerGetAttributes", &[kinds.as_mut_ptr() as *mut c_void as u64, address]));
    assert_eq!((kinds[0], kinds[1]), (2, address));
}

#[test]
fn used_memory_is_counted() {
    let _context = Context::new();
    let pool: u64 = get("cuDeviceGetDefaultMemPool", &[0]);
    let _address = words(1 << 20);
    let mut used = 0u64;
    ok(call("cuMemPoolGetAttribute", &[pool, 7, &raw mut used as u64]));
    assert!(used >= 4 << 20, "{used}");
    assert_eq!(call("cuMemPoolGetAttribute", &[0x1234, 7, &raw mut used as u64]), 1);
    assert_eq!(call("cuMemPoolDestroy", &[pool]), 1);
    let (mut free, mut total) = (0usize, 0usize);
    ok(call("cuMemGetInfo_v2", &[&raw mut free as u64, &raw mut total as u64]));
    assert!(free < total);
}
