"""A camera that speaks RTSP, run by the system's Python (Debian: python3-gi, gir1.2-gst-rtsp-server-1.0,
gstreamer1.0-plugins-base, gstreamer1.0-plugins-good): `python3 rtsp_server.py PORT WIDTH HEIGHT`.

Prints `ready` when it listens.
"""

from __future__ import annotations

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

Gst.init(None)
wanted = ("videotestsrc", "jpegenc", "rtpjpegpay")
missing = [name for name in wanted if Gst.ElementFactory.find(name) is None]
if missing:
    sys.exit(f"GStreamer has no {', '.join(missing)}")
port, width, height = sys.argv[1:]
server = GstRtspServer.RTSPServer(service=port)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(
    f"( videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width={width},height={height},framerate=25/1 "
    "! jpegenc ! rtpjpegpay name=pay0 )"
)
server.get_mount_points().add_factory("/strip", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
