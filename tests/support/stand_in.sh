#!/bin/sh
# Stands for the ffmpeg program in tests. The name that it is called by says what it does; tests link
# to it. A good one shows a video of 8 frames of 4 x 2 pixels at 2 frames a second.
frame() { printf 'P6\n%s\n255\n' "${1:-4 2}"; head -c 24 /dev/zero; }
packets() {
  printf '#tb 0: 1/2\n#codec_id 0: h264\n'
  i=0
  while [ $i -lt "${1:-8}" ]; do printf '0, %d, %d, 1, 9, 0x0\n' $i $i; i=$((i + 1)); done
}
header() { printf 'YUV4MPEG2 W%s H2 F2:1 Ip A0:0 C420jpeg\nFRAME\n' "${1:-4}"; head -c 12 /dev/zero; }

wants=frames
number=8
previous=
for word in "$@"; do
  case "$word" in
    framecrc) wants=packets ;;
    yuv4mpegpipe) wants=header ;;
    *scale=2:2*) wants=count ;;
  esac
  [ "$previous" = -frames:v ] && number=$word
  previous=$word
done
good() {
  case $wants in
    packets) packets ;;
    header) header ;;
    count) i=0; while [ $i -lt 8 ]; do printf 'P6\n2 2\n255\n'; head -c 12 /dev/zero; i=$((i + 1)); done ;;
    frames) i=0; while [ $i -lt "$number" ]; do frame; i=$((i + 1)); done ;;
  esac
}

case "$(basename "$0")-$wants" in
  hangs-packets) sh -c 'sleep 300; true' "$0" & sleep 300 ;;
  hangs-in-frames-frames) frame; sleep 300 ;;
  floods-packets) printf '#tb 0: 1/2\n'; yes '0, 1, 1, 1, 9, 0x0' ;;
  floods-lines-packets) cat /dev/zero ;;
  floods-frames-frames) while :; do frame; done ;;
  floods-header-header) header; cat /dev/zero ;;
  complains-packets) yes 'this is a complaint' | head -c 50000000 >&2; good ;;
  fails-packets) echo 'moov atom not found' >&2; exit 183 ;;
  crashes-frames) frame; kill -SEGV $$ ;;
  lies-about-frames-frames) frame '60000 60000' ;;
  lies-about-size-header) header 4000000000 ;;
  lies-about-size-a-little-header) header 60000 ;;
  lies-about-number-packets) packets 12 ;;
  lies-about-number-frames) [ "$number" -gt 8 ] && number=8; good ;;
  cuts-frames) frame; printf 'P6\n4 2\n255\nxxx' ;;
  hoards-packets) head -c 900000000 /dev/zero | tail -c 800000000 ;;
  writes-packets) echo text > "$0.written" || exit 7; good ;;
  answers-nothing-*) ;;
  *) good ;;
esac
