//! Memory of the device, and views that borrow it for one launch.

use std::{ffi::c_void, marker::PhantomData, ops::Range, slice, sync::atomic::Ordering};

use cudarc::driver::{CudaSlice, DevicePtr, PinnedHostSlice};
use half::{bf16, f16};

use super::{Device, DeviceError, driver};

/// Boundary on which every view starts: the widest access of the kernels.
const ALIGNMENT: usize = 16;

/// A type whose values are plain bytes on both sides.
///
/// # Safety
/// No padding, no pointers into the host, every bit pattern is a value.
pub unsafe trait Element: Copy + Send + Sync + 'static {}

macro_rules! elements {
    ($($type:ty),*) => { $(
        // SAFETY: a number: no padding, every pattern is a value.
        unsafe impl Element for $type {}
    )* };
}
elements!(u8, u16, u32, u64, i32, i64, f32, f64, bf16, f16);

/// Device memory with one owner. Freed in stream order, after every launch queued before.
///
/// Outputs cannot alias inputs: a view borrows its buffer.
///
/// ```compile_fail
/// # fn main() -> Result<(), qwen2vl::device::DeviceError> {
/// # let device = qwen2vl::device::Device::open(Default::default())?;
/// let mut x = device.upload(&[0f32; 8])?;
/// let input = x.view();
/// let output = x.view_mut(); // refused: `x` is borrowed
/// drop((input, output));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Buffer<T> {
    bytes: CudaSlice<u8>,
    address: u64,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Element> Buffer<T> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where it lies on the device.
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    /// The same memory as bytes.
    pub(super) fn into_bytes(self) -> Buffer<u8> {
        let len = self.len * size_of::<T>();
        Buffer { bytes: self.bytes, address: self.address, len, element: PhantomData }
    }

    /// Borrows all of it for reading.
    pub fn view(&self) -> View<'_, T> {
        View { address: self.address, len: self.len, owner: PhantomData }
    }

    /// Borrows all of it for writing.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        ViewMut { address: self.address, len: self.len, owner: PhantomData }
    }
}

/// Device memory borrowed for reading; starts on a 16-byte boundary.
#[derive(Debug)]
pub struct View<'a, T> {
    address: u64,
    len: usize,
    owner: PhantomData<&'a T>,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'a, T: Element> View<'a, T> {
    /// `len` elements at `address`, which the caller has borrowed for `'a`.
    pub(super) fn new(address: u64, len: usize) -> Self {
        View { address, len, owner: PhantomData }
    }

    /// Address and length.
    pub(super) fn parts(&self) -> (u64, usize) {
        (self.address, self.len)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device address, as the kernels take it.
    pub fn ptr(&self) -> *const c_void {
        std::ptr::without_provenance(address(self.address))
    }

    /// A part of it.
    ///
    /// # Errors
    /// [`DeviceError::Range`] if it reaches past the end or starts off a 16-byte boundary.
    pub fn slice(self, range: Range<usize>) -> Result<View<'a, T>, DeviceError> {
        let address = sub_address(self.address, self.len, size_of::<T>(), &range)?;
        Ok(View { address, len: range.len(), owner: PhantomData })
    }
}

impl<'a> View<'a, u8> {
    /// The same bytes as elements of another type.
    ///
    /// # Errors
    /// [`DeviceError::Length`] if they are no whole number of elements.
    pub fn cast<T: Element>(self) -> Result<View<'a, T>, DeviceError> {
        let len = self.len / size_of::<T>();
        if len * size_of::<T>() != self.len {
            return Err(DeviceError::Length { from: self.len, to: len });
        }
        Ok(View { address: self.address, len, owner: PhantomData })
    }
}

/// Device memory borrowed for writing; starts on a 16-byte boundary.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    address: u64,
    len: usize,
    owner: PhantomData<&'a mut T>,
}

impl<'a, T: Element> ViewMut<'a, T> {
    /// `len` elements at `address`, which the caller has borrowed for `'a`.
    pub(super) fn new(address: u64, len: usize) -> Self {
        ViewMut { address, len, owner: PhantomData }
    }

    /// Address and length.
    pub(super) fn parts(&self) -> (u64, usize) {
        (self.address, self.len)
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The device address, as the kernels take it.
    pub fn ptr_mut(&mut self) -> *mut c_void {
        std::ptr::without_provenance_mut(address(self.address))
    }

    /// The same memory for reading, while this view rests.
    pub fn as_view(&self) -> View<'_, T> {
        View { address: self.address, len: self.len, owner: PhantomData }
    }

    /// The same memory for writing, while this view rests.
    pub fn reborrow(&mut self) -> ViewMut<'_, T> {
        ViewMut { address: self.address, len: self.len, owner: PhantomData }
    }

    /// A part of it.
    ///
    /// # Errors
    /// [`DeviceError::Range`] if it reaches past the end or starts off a 16-byte boundary.
    pub fn slice(self, range: Range<usize>) -> Result<ViewMut<'a, T>, DeviceError> {
        let address = sub_address(self.address, self.len, size_of::<T>(), &range)?;
        Ok(ViewMut { address, len: range.len(), owner: PhantomData })
    }
}

/// Address of a part of `len` elements of `size` bytes.
pub(super) fn sub_address(
    address: u64,
    len: usize,
    size: usize,
    range: &Range<usize>,
) -> Result<u64, DeviceError> {
    let inside = range.start <= range.end && range.end <= len;
    let offset = range.start.wrapping_mul(size);
    if !inside || !offset.is_multiple_of(ALIGNMENT) {
        return Err(DeviceError::Range { start: range.start, end: range.end, len, size });
    }
    Ok(address + offset as u64)
}

pub(super) fn address(address: u64) -> usize {
    usize::try_from(address).expect("the target has 64-bit addresses")
}

impl Device {
    /// Memory of `len` elements with undefined content.
    ///
    /// # Errors
    /// [`DeviceError::TooLarge`]; [`DeviceError::Driver`], out of memory among them.
    pub fn alloc<T: Element>(&self, len: usize) -> Result<Buffer<T>, DeviceError> {
        let size = len.checked_mul(size_of::<T>());
        let size = size.ok_or(DeviceError::TooLarge(len, size_of::<T>()))?;
        // The driver refuses 0 bytes.
        // SAFETY: every element type has all bit patterns as values; kernels write before they read.
        let bytes = unsafe { self.stream.alloc::<u8>(size.max(1)) };
        let bytes = bytes.map_err(driver("cuMemAlloc"))?;
        self.allocations.fetch_add(1, Ordering::Relaxed);
        let address = bytes.device_ptr(&self.stream).0;
        Ok(Buffer { bytes, address, len, element: PhantomData })
    }

    /// Memory filled with zero bytes.
    ///
    /// # Errors
    /// As [`Device::alloc`].
    pub fn zeros<T: Element>(&self, len: usize) -> Result<Buffer<T>, DeviceError> {
        let mut buffer = self.alloc(len)?;
        self.stream.memset_zeros(&mut buffer.bytes).map_err(driver("cuMemsetD8Async"))?;
        Ok(buffer)
    }

    /// A copy of `host` on the device; `host` may be reused at once.
    ///
    /// # Errors
    /// As [`Device::alloc`].
    pub fn upload<T: Element>(&self, host: &[T]) -> Result<Buffer<T>, DeviceError> {
        let mut buffer = self.alloc(host.len())?;
        self.write(buffer.view_mut(), host)?;
        Ok(buffer)
    }

    /// Copies `host` over `to`; `host` may be reused at once.
    ///
    /// # Errors
    /// [`DeviceError::Length`] if the lengths differ; [`DeviceError::Driver`].
    pub fn write<T: Element>(&self, to: ViewMut<'_, T>, host: &[T]) -> Result<(), DeviceError> {
        if to.len() != host.len() {
            return Err(DeviceError::Length { from: host.len(), to: to.len() });
        }
        if host.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let stream = self.stream.cu_stream();
        // SAFETY: lengths are equal and `to` borrows live memory. From pageable memory the driver
        // stages the bytes before it returns.
        unsafe { cudarc::driver::result::memcpy_htod_async(to.address, as_bytes(host), stream) }
            .map_err(driver("cuMemcpyHtoDAsync"))
    }

    /// Copies the first bytes of pinned memory over `to` in stream order; `host` must stay as it is until the stream
    /// has passed the copy, which [`Device::synchronize`] and [`Device::read`] wait for.
    ///
    /// # Errors
    /// [`DeviceError::Length`] if the lengths differ; [`DeviceError::Driver`].
    pub fn write_pinned(
        &self,
        to: ViewMut<'_, u8>,
        host: &PinnedBuffer,
    ) -> Result<(), DeviceError> {
        let bytes = host.bytes()?.get(..to.len());
        let bytes = bytes.ok_or(DeviceError::Length { from: host.len(), to: to.len() })?;
        self.write(to, bytes)
    }

    /// Sets every byte of `to` to zero, in stream order.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub fn clear<T: Element>(&self, to: ViewMut<'_, T>) -> Result<(), DeviceError> {
        if to.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let (bytes, stream) = (to.len() * size_of::<T>(), self.stream.cu_stream());
        // SAFETY: `to` borrows live memory of `bytes` bytes.
        unsafe { cudarc::driver::result::memset_d8_async(to.address, 0, bytes, stream) }
            .map_err(driver("cuMemsetD8Async"))
    }

    /// Copies `from` to the host and waits for it, and so for all work queued before.
    ///
    /// # Errors
    /// [`DeviceError::Length`] if the lengths differ; [`DeviceError::Driver`], which is also where
    /// a fault of an earlier launch shows.
    pub fn read<T: Element>(&self, from: View<'_, T>, host: &mut [T]) -> Result<(), DeviceError> {
        if from.len() != host.len() {
            return Err(DeviceError::Length { from: from.len(), to: host.len() });
        }
        self.bind()?;
        self.reads.fetch_add(1, Ordering::Relaxed);
        if !host.is_empty() {
            // SAFETY: an element has no padding and takes every bit pattern.
            let bytes = unsafe {
                slice::from_raw_parts_mut(host.as_mut_ptr().cast::<u8>(), size_of_val(host))
            };
            let stream = self.stream.cu_stream();
            // SAFETY: lengths are equal, `from` borrows live memory, and the wait below ends before
            // `host` can be used again.
            unsafe { cudarc::driver::result::memcpy_dtoh_async(bytes, from.address, stream) }
                .map_err(driver("cuMemcpyDtoHAsync"))?;
        }
        self.synchronize()
    }

    /// All elements of `buffer` on the host, after all work queued before.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub fn download<T: Element>(&self, buffer: &Buffer<T>) -> Result<Vec<T>, DeviceError> {
        self.download_view(buffer.view())
    }

    /// All elements of `view` on the host, after all work queued before.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub fn download_view<T: Element>(&self, view: View<'_, T>) -> Result<Vec<T>, DeviceError> {
        // SAFETY: an element takes every bit pattern, zero among them.
        let zero: T = unsafe { std::mem::zeroed() };
        let mut host = vec![zero; view.len()];
        self.read(view, &mut host)?;
        Ok(host)
    }

    /// Copies on the device, in stream order.
    ///
    /// # Errors
    /// [`DeviceError::Length`] if the lengths differ; [`DeviceError::Driver`].
    pub fn copy<T: Element>(
        &self,
        from: View<'_, T>,
        to: ViewMut<'_, T>,
    ) -> Result<(), DeviceError> {
        if from.len() != to.len() {
            return Err(DeviceError::Length { from: from.len(), to: to.len() });
        }
        if from.is_empty() {
            return Ok(());
        }
        self.bind()?;
        let bytes = from.len() * size_of::<T>();
        let stream = self.stream.cu_stream();
        // SAFETY: both views borrow live memory of `bytes` bytes; the borrows keep them apart.
        unsafe {
            cudarc::driver::result::memcpy_dtod_async(to.address, from.address, bytes, stream)
        }
        .map_err(driver("cuMemcpyDtoDAsync"))
    }

    /// Page-locked host memory of `len` bytes, zeroed.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub fn pinned(&self, len: usize) -> Result<PinnedBuffer, DeviceError> {
        // SAFETY: written below before anything reads it.
        let memory = unsafe { self.context.alloc_pinned_with_flags::<u8>(len.max(1), 0) };
        let mut memory = memory.map_err(driver("cuMemHostAlloc"))?;
        memory.as_mut_slice().map_err(driver("cuEventSynchronize"))?.fill(0);
        Ok(PinnedBuffer { memory, len })
    }
}

/// Page-locked host memory, the source of copies in stream order.
#[derive(Debug)]
pub struct PinnedBuffer {
    memory: PinnedHostSlice<u8>,
    len: usize,
}

impl PinnedBuffer {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its bytes.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if waiting for its last copy fails.
    pub fn bytes(&self) -> Result<&[u8], DeviceError> {
        self.memory.as_slice().map_err(driver("cuEventSynchronize"))
    }

    /// Its bytes for writing.
    ///
    /// # Errors
    /// [`DeviceError::Driver`] if waiting for its last copy fails.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8], DeviceError> {
        self.memory.as_mut_slice().map_err(driver("cuEventSynchronize"))
    }
}

/// The bytes of plain elements.
pub fn as_bytes<T: Element>(host: &[T]) -> &[u8] {
    // SAFETY: an element has no padding.
    unsafe { slice::from_raw_parts(host.as_ptr().cast::<u8>(), size_of_val(host)) }
}
