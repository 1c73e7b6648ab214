use proptest::prelude::*;

use super::*;

/// A tensor of 100 by 40 by 7 halves, rows padded to 208 bytes.
const HALVES: Tiled = Tiled {
    data_type: 6,
    address: 0x10_0000,
    dims: &[100, 40, 7],
    strides: &[208, 208 * 40],
    box_dims: &[64, 8, 2],
    element_strides: &[1, 1, 1],
    interleave: 0,
    swizzle: 3,
    l2_promotion: 2,
    fill: 0,
};

fn pieces(map: &TensorMap, coordinates: &[i32], shared: u32) -> Vec<Piece> {
    let mut pieces = Vec::new();
    map.pieces(coordinates, shared, |piece| {
        pieces.push(piece);
        Ok::<_, CopyError>(())
    })
    .unwrap();
    pieces
}

/// Where each byte of shared memory comes from, none where it is filled.
fn sources(map: &TensorMap, coordinates: &[i32], shared: u32) -> Vec<(u32, Option<u64>)> {
    let mut bytes: Vec<_> = pieces(map, coordinates, shared)
        .into_iter()
        .flat_map(|piece| {
            (0..piece.bytes)
                .map(move |i| (piece.shared + i, piece.global.map(|g| g + u64::from(i))))
        })
        .collect();
    bytes.sort_unstable();
    bytes
}

/// The sources by the definition: element by element, byte by byte.
fn expected(tiled: &Tiled, size: u32, coordinates: &[i32], shared: u32) -> Vec<(u32, Option<u64>)> {
    let steps: Vec<i64> = (0..tiled.dims.len())
        .map(|i| if i == 0 { 1 } else { tiled.element_strides[i].into() })
        .collect();
    let counts: Vec<u32> = (0..steps.len())
        .map(|i| (0..tiled.box_dims[i]).step_by(steps[i] as usize).len() as u32)
        .collect();
    let mut bytes = Vec::new();
    for index in 0..counts.iter().product::<u32>() {
        let mut rest = index;
        let (mut inside, mut global) = (true, tiled.address as i64);
        for i in 0..counts.len() {
            let at = i64::from(coordinates[i]) + i64::from(rest % counts[i]) * steps[i];
            rest /= counts[i];
            inside &= (0..tiled.dims[i] as i64).contains(&at);
            global += at * if i == 0 { size.into() } else { tiled.strides[i - 1] as i64 };
        }
        for byte in 0..size {
            let plain = shared + index * size + byte;
            // The manual's figures: chunk c of row r of the pattern goes to c ^ r.
            let (line, chunk) = (plain / 128, plain / 16 % 8);
            let to = match tiled.swizzle {
                0 => chunk,
                1 => chunk ^ (line % 2),
                2 => chunk ^ (line % 4),
                _ => chunk ^ (line % 8),
            };
            let at = line * 128 + to * 16 + plain % 16;
            bytes.push((at, inside.then_some(global as u64 + u64::from(byte))));
        }
    }
    bytes.sort_unstable();
    bytes
}

#[test]
fn a_box_inside() {
    let map = TensorMap::new(&HALVES).unwrap();
    assert_eq!(map.box_bytes(), 128 * 8 * 2);
    let all = pieces(&map, &[32, 3, 5], 0x800);
    assert_eq!(all.len(), 16 * 8);
    let first = 0x10_0000 + 64 + 3 * 208 + 5 * 208 * 40;
    assert_eq!(all[0], Piece { shared: 0x800, global: Some(first), bytes: 16 });
    // Row 1, chunk 2 goes to place 3.
    assert_eq!(all[10], Piece { shared: 0x8b0, global: Some(first + 208 + 32), bytes: 16 });
}

#[test]
fn a_box_over_the_borders() {
    let map = TensorMap::new(&HALVES).unwrap();
    for coordinates in [
        [-10, -3, 0],
        [60, 38, 6],
        [-64, 0, 0],
        [100, 0, 0],
        [0, 40, 0],
        [0, 0, -1],
        [i32::MIN, i32::MAX, 0],
        [i32::MAX, i32::MIN, 0],
    ] {
        let got = sources(&map, &coordinates, 0x400);
        assert!(got == expected(&HALVES, 2, &coordinates, 0x400), "{coordinates:?}");
    }
}

proptest! {
    #[test]
    fn pieces_are_the_definition(
        (data_type, size) in prop_oneof![Just((0, 1)), Just((9, 2)), Just((7, 4)), Just((8, 8))],
        dims in prop::collection::vec(1u64..40, 1..=4),
        boxes in prop::collection::vec(1u32..6, 4),
        steps in prop::collection::vec(1u32..=4, 4),
        (chunks, swizzle) in (1u32..=8, 0u32..4),
        corner in prop::collection::vec(-9i32..30, 4),
        base in 0u32..16,
    ) {
        let rank = dims.len();
        let chunks = if swizzle == 0 { chunks } else { chunks.min(1 << swizzle) };
        let mut box_dims = boxes[..rank].to_vec();
        box_dims[0] = chunks * 16 / size;
        let strides: Vec<u64> = (1..rank as u64).map(|i| 4096 * i + 16).collect();
        let tiled = Tiled {
            data_type,
            dims: &dims,
            strides: &strides,
            box_dims: &box_dims,
            element_strides: &steps[..rank],
            swizzle,
            ..HALVES
        };
        let map = TensorMap::new(&tiled).unwrap();
        let corner = &corner[..rank];
        let got = sources(&map, corner, base * 128);
        prop_assert_eq!(got.len(), map.box_bytes() as usize);
        prop_assert_eq!(got, expected(&tiled, size, corner, base * 128));
        prop_assert_eq!(TensorMap::decode(&map.encode()), Ok(map));
    }
}

#[test]
fn fill_is_zero_or_nan() {
    assert_eq!(TensorMap::new(&HALVES).unwrap().fill(), [0; 16]);
    let nan = |data_type| TensorMap::new(&Tiled { fill: 1, data_type, ..HALVES }).unwrap().fill();
    let half = nan(6);
    assert!(half::f16::from_le_bytes([half[0], half[1]]).is_nan() && half[14..] == half[..2]);
    let wide = TensorMap::new(&Tiled { fill: 1, data_type: 7, box_dims: &[32, 8, 2], ..HALVES });
    let fill = wide.unwrap().fill();
    assert!(fill.as_chunks().0.iter().all(|&x| f32::from_le_bytes(x).is_nan()));
}

#[test]
fn broken_rules_are_refused() {
    use TiledError::*;
    assert!(TensorMap::new(&HALVES).is_ok());
    for (tiled, error) in [
        (Tiled { address: 0x1_0008, ..HALVES }, Address(0x1_0008)),
        (Tiled { dims: &[100, 0, 7], ..HALVES }, Dim { index: 1, size: 0 }),
        (Tiled { dims: &[(1 << 32) + 1, 40, 7], ..HALVES }, Dim { index: 0, size: (1 << 32) + 1 }),
        (Tiled { strides: &[200, 8320], ..HALVES }, Stride { index: 0, stride: 200 }),
        (Tiled { strides: &[208, 1 << 40], ..HALVES }, Stride { index: 1, stride: 1 << 40 }),
        (Tiled { box_dims: &[64, 8, 0], ..HALVES }, BoxDim { index: 2, size: 0 }),
        (Tiled { box_dims: &[64, 257, 1], ..HALVES }, BoxDim { index: 1, size: 257 }),
        (Tiled { box_dims: &[60, 8, 1], ..HALVES }, BoxRow { bytes: 120, limit: 128 }),
        (Tiled { box_dims: &[72, 8, 1], ..HALVES }, BoxRow { bytes: 144, limit: 128 }),
        (Tiled { swizzle: 2, ..HALVES }, BoxRow { bytes: 128, limit: 64 }),
        (Tiled { element_strides: &[1, 9, 1], ..HALVES }, ElementStride { index: 1, step: 9 }),
        (Tiled { element_strides: &[1, 1, 0], ..HALVES }, ElementStride { index: 2, step: 0 }),
        (Tiled { dims: &[], ..HALVES }, Rank { rank: 0, strides: 2, boxes: 3, steps: 3 }),
        (Tiled { strides: &[208], ..HALVES }, Rank { rank: 3, strides: 1, boxes: 3, steps: 3 }),
        (Tiled { data_type: 16, ..HALVES }, Value { name: "tensorDataType", value: 16 }),
        (Tiled { interleave: 3, ..HALVES }, Value { name: "interleave", value: 3 }),
        (Tiled { swizzle: 7, ..HALVES }, Value { name: "swizzle", value: 7 }),
        (Tiled { l2_promotion: 4, ..HALVES }, Value { name: "l2Promotion", value: 4 }),
        (Tiled { fill: 2, ..HALVES }, Value { name: "oobFill", value: 2 }),
        (Tiled { data_type: 1, fill: 1, ..HALVES }, Fill(DataType::U16)),
        (Tiled { swizzle: 4, ..HALVES }, NotModelled("CU_TENSOR_MAP_SWIZZLE_128B_ATOM_32B")),
        (Tiled { interleave: 2, ..HALVES }, NotModelled("CU_TENSOR_MAP_INTERLEAVE_32B")),
        (Tiled { data_type: 11, ..HALVES }, NotModelled("CU_TENSOR_MAP_DATA_TYPE_TFLOAT32")),
        (Tiled { data_type: 13, ..HALVES }, NotModelled("CU_TENSOR_MAP_DATA_TYPE_16U4_ALIGN8B")),
    ] {
        assert_eq!(TensorMap::new(&tiled), Err(error));
    }
}

#[test]
fn copies_that_do_not_fit_the_map_are_refused() {
    let map = TensorMap::new(&HALVES).unwrap();
    let copy = |coordinates: &[i32], shared| map.pieces(coordinates, shared, |_| Ok(()));
    assert_eq!(copy(&[0, 0], 0), Err(CopyError::Coordinates { given: 2, rank: 3 }));
    assert_eq!(copy(&[0, 0, 0], 64), Err(CopyError::SharedAddress(64)));
    assert_eq!(copy(&[0, 0, 0], 128), Ok(()));
}

#[test]
fn foreign_bytes_are_refused() {
    let bytes = TensorMap::new(&HALVES).unwrap().encode();
    assert_eq!(TensorMap::decode(&[0; 128]), Err(CopyError::Foreign));
    for at in [0, 7, 8, 9, 10, 11, 12, 16, 37, 127] {
        let mut changed = bytes;
        changed[at] ^= 0xa5;
        assert_eq!(TensorMap::decode(&changed), Err(CopyError::Foreign), "byte {at}");
    }
}
