//! Fatbins and cubins: what nvcc writes, and damaged ones.

use softcuda::ptx::fatbin::{self, FatbinError, ImageKind, MemberKind};
use softcuda::ptx::{self, cubin};

const PLAIN: &[u8] = include_bytes!("ptx/plain.fatbin");
const ZSTD: &[u8] = include_bytes!("ptx/zstd.fatbin");

#[test]
fn members_and_selection() {
    assert_eq!(ImageKind::of(PLAIN), ImageKind::Fatbin);
    assert_eq!(fatbin::image_size(PLAIN), Some(PLAIN.len()));
    let members = fatbin::members(PLAIN).expect("a fatbin");
    let mut kinds: Vec<_> = members.iter().map(|m| (m.arch, m.kind, m.arch_specific)).collect();
    kinds.sort_by_key(|k| (k.0, k.1 == MemberKind::Cubin));
    assert_eq!(
        kinds,
        [
            (80, MemberKind::Ptx, false),
            (80, MemberKind::Cubin, false),
            (89, MemberKind::Ptx, false),
            (90, MemberKind::Ptx, true),
            (90, MemberKind::Cubin, true),
        ]
    );
    for (arch, target) in
        [(80, "sm_80"), (86, "sm_80"), (89, "sm_89"), (90, "sm_90a"), (100, "sm_89")]
    {
        let text = fatbin::select_ptx(PLAIN, arch).expect("a fatbin").expect("PTX for it");
        let module = ptx::parse(&text).expect("it parses");
        assert_eq!(module.name(module.targets[0]), target, "for {arch}");
        assert!(module.find_function("image").is_some());
    }
    assert!(fatbin::select_ptx(PLAIN, 75).expect("a fatbin").is_none());
    assert_eq!(fatbin::ptx_texts(PLAIN).expect("a fatbin").len(), 3);
}

#[test]
fn compressed_members_are_the_plain_ones() {
    let packed = fatbin::ptx_texts(ZSTD).expect("a fatbin");
    let plain = fatbin::ptx_texts(PLAIN).expect("a fatbin");
    let plain = plain.iter().find(|t| t.0 == 80).expect("PTX for sm_80");
    assert_eq!(packed, std::slice::from_ref(plain));
    let image = fatbin::select_cubin(ZSTD, 80).expect("a fatbin").expect("machine code");
    assert_eq!(ImageKind::of(&image), ImageKind::Cubin);
}

#[test]
fn cubins_name_registers_and_shared_memory() {
    for arch in [80, 90] {
        let image = fatbin::select_cubin(PLAIN, arch).expect("a fatbin").expect("machine code");
        let figures = cubin::figures(&image).expect("an ELF file");
        let image = figures.get("image").expect("the kernel");
        assert_eq!(image.static_shared, 1200, "sm_{arch}");
        assert!((8..=32).contains(&image.registers), "sm_{arch}: {}", image.registers);
        assert!(image.code_bytes >= 128);
    }
}

#[test]
fn machine_code_runs_on_its_major_version() {
    let code = |arch| fatbin::select_cubin(PLAIN, arch).expect("a fatbin");
    assert!(code(80).is_some());
    // A later minor version runs it; sm_90a runs on sm_90 alone; no other major version does.
    for arch in [86, 87, 89] {
        assert_eq!(code(arch), code(80), "sm_{arch}");
    }
    assert_ne!(code(90), code(80));
    for arch in [70, 75, 91, 100, 120] {
        assert!(code(arch).is_none(), "sm_{arch}");
    }
}

#[test]
fn damage_is_an_error() {
    assert_eq!(fatbin::members(b"").map(|_| ()), Err(FatbinError::NotAFatbin));
    assert_eq!(ImageKind::of(b".version 8.0"), ImageKind::Ptx);
    for cut in [16, 40, 100, PLAIN.len() - 1] {
        let error = fatbin::members(&PLAIN[..cut]).map(|_| ()).expect_err("cut off");
        assert_eq!(error, FatbinError::Truncated { at: cut });
    }
    let mut lz4 = ZSTD.to_vec();
    lz4[16 + 41] = 0x20;
    let error = fatbin::members(&lz4).expect("headers are whole")[0].data().map(|_| ());
    assert_eq!(error, Err(FatbinError::Lz4));
}

#[test]
fn damaged_bytes_never_panic() {
    let mut state = 0x5eed_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut refused = 0;
    for round in 0..3000 {
        let mut image = if round % 2 == 0 { PLAIN } else { ZSTD }.to_vec();
        for _ in 0..=random() % 4 {
            let headers = if random() % 2 == 0 { 200 } else { image.len() as u64 };
            let at = usize::try_from(random() % headers).expect("64-bit");
            image[at] = random().to_le_bytes()[0];
        }
        let Ok(members) = fatbin::members(&image) else {
            refused += 1;
            continue;
        };
        for member in members {
            match (member.data(), member.kind) {
                (Ok(data), MemberKind::Cubin) => drop(cubin::figures(&data)),
                (Ok(data), _) => drop(ptx::parse(&data)),
                (Err(_), _) => refused += 1,
            }
        }
    }
    assert!(refused > 100, "{refused}");
}
