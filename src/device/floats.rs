//! Memory of numbers whose type is chosen at run time: one executor serves bf16, f16 and f32.

use std::{ffi::c_void, marker::PhantomData, ops::Range};

use half::{bf16, f16};

use super::{Buffer, Device, DeviceError, Element, View, ViewMut, buffer};
use crate::units::{Float, FloatType};

/// Device memory of numbers, with one owner.
#[derive(Debug)]
pub struct Floats {
    bytes: Buffer<u8>,
    dtype: FloatType,
    len: usize,
}

impl Floats {
    /// The type of its numbers.
    pub fn dtype(&self) -> FloatType {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no element.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Borrows all of it for reading.
    pub fn view(&self) -> FloatView<'_> {
        let address = self.bytes.address();
        FloatView { address, len: self.len, dtype: self.dtype, owner: PhantomData }
    }

    /// Borrows all of it for writing.
    pub fn view_mut(&mut self) -> FloatViewMut<'_> {
        let address = self.bytes.address();
        FloatViewMut { address, len: self.len, dtype: self.dtype, owner: PhantomData }
    }
}

impl<T: Float + Element> From<Buffer<T>> for Floats {
    fn from(buffer: Buffer<T>) -> Self {
        let len = buffer.len();
        Self { bytes: buffer.into_bytes(), dtype: T::TYPE, len }
    }
}

/// Numbers on the device borrowed for reading; starts on a 16-byte boundary.
#[derive(Clone, Copy, Debug)]
pub struct FloatView<'a> {
    address: u64,
    len: usize,
    dtype: FloatType,
    owner: PhantomData<&'a u8>,
}

impl<'a> FloatView<'a> {
    /// The type of its numbers.
    pub fn dtype(&self) -> FloatType {
        self.dtype
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
        std::ptr::without_provenance(buffer::address(self.address))
    }

    /// A part of it.
    ///
    /// # Errors
    /// [`DeviceError::Range`] if it reaches past the end or starts off a 16-byte boundary.
    pub fn slice(self, range: Range<usize>) -> Result<FloatView<'a>, DeviceError> {
        let address = buffer::sub_address(self.address, self.len, self.dtype.size(), &range)?;
        Ok(FloatView { address, len: range.len(), ..self })
    }
}

impl<'a, T: Float + Element> From<View<'a, T>> for FloatView<'a> {
    fn from(view: View<'a, T>) -> Self {
        let (address, len) = view.parts();
        Self { address, len, dtype: T::TYPE, owner: PhantomData }
    }
}

/// Numbers on the device borrowed for writing; starts on a 16-byte boundary.
#[derive(Debug)]
pub struct FloatViewMut<'a> {
    address: u64,
    len: usize,
    dtype: FloatType,
    owner: PhantomData<&'a mut u8>,
}

impl<'a> FloatViewMut<'a> {
    /// The type of its numbers.
    pub fn dtype(&self) -> FloatType {
        self.dtype
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
        std::ptr::without_provenance_mut(buffer::address(self.address))
    }

    /// The same memory for reading, while this view rests.
    pub fn as_view(&self) -> FloatView<'_> {
        FloatView { address: self.address, len: self.len, dtype: self.dtype, owner: PhantomData }
    }

    /// The same memory for writing, while this view rests.
    pub fn reborrow(&mut self) -> FloatViewMut<'_> {
        FloatViewMut { address: self.address, len: self.len, dtype: self.dtype, owner: PhantomData }
    }

    /// A part of it.
    ///
    /// # Errors
    /// [`DeviceError::Range`] if it reaches past the end or starts off a 16-byte boundary.
    pub fn slice(self, range: Range<usize>) -> Result<FloatViewMut<'a>, DeviceError> {
        let address = buffer::sub_address(self.address, self.len, self.dtype.size(), &range)?;
        Ok(FloatViewMut { address, len: range.len(), ..self })
    }

    /// The same memory as bytes.
    fn bytes(self) -> ViewMut<'a, u8> {
        ViewMut::new(self.address, self.len * self.dtype.size())
    }
}

impl<'a, T: Float + Element> From<ViewMut<'a, T>> for FloatViewMut<'a> {
    fn from(view: ViewMut<'a, T>) -> Self {
        let (address, len) = view.parts();
        Self { address, len, dtype: T::TYPE, owner: PhantomData }
    }
}

impl Device {
    /// Memory of `len` numbers with undefined content.
    ///
    /// # Errors
    /// As [`Device::alloc`].
    pub fn alloc_floats(&self, dtype: FloatType, len: usize) -> Result<Floats, DeviceError> {
        let size = len.checked_mul(dtype.size());
        let size = size.ok_or(DeviceError::TooLarge(len, dtype.size()))?;
        Ok(Floats { bytes: self.alloc(size)?, dtype, len })
    }

    /// `host` on the device, each number rounded to `dtype`.
    ///
    /// # Errors
    /// As [`Device::alloc`].
    pub fn upload_floats(&self, dtype: FloatType, host: &[f32]) -> Result<Floats, DeviceError> {
        let mut floats = self.alloc_floats(dtype, host.len())?;
        self.write_floats(floats.view_mut(), host)?;
        Ok(floats)
    }

    /// Writes `host` over `to`, each number rounded to the type of `to`.
    ///
    /// # Errors
    /// [`DeviceError::Length`] if the lengths differ; [`DeviceError::Driver`].
    pub fn write_floats(&self, to: FloatViewMut<'_>, host: &[f32]) -> Result<(), DeviceError> {
        if to.len() != host.len() {
            return Err(DeviceError::Length { from: host.len(), to: to.len() });
        }
        match to.dtype {
            FloatType::Bf16 => self.write(to.bytes(), buffer::as_bytes(&rounded::<bf16>(host))),
            FloatType::F16 => self.write(to.bytes(), buffer::as_bytes(&rounded::<f16>(host))),
            FloatType::F32 => self.write(to.bytes(), buffer::as_bytes(host)),
        }
    }

    /// All numbers of `view` on the host, widened, after all work queued before.
    ///
    /// # Errors
    /// [`DeviceError::Driver`].
    pub fn download_floats(&self, view: FloatView<'_>) -> Result<Vec<f32>, DeviceError> {
        let FloatView { address, len, .. } = view;
        match view.dtype {
            FloatType::Bf16 => Ok(widened(&self.download_view::<bf16>(View::new(address, len))?)),
            FloatType::F16 => Ok(widened(&self.download_view::<f16>(View::new(address, len))?)),
            FloatType::F32 => self.download_view(View::new(address, len)),
        }
    }
}

fn rounded<T: Float>(host: &[f32]) -> Vec<T> {
    host.iter().map(|value| T::from_f32(*value)).collect()
}

fn widened<T: Float>(host: &[T]) -> Vec<f32> {
    host.iter().map(|value| value.to_f32()).collect()
}
