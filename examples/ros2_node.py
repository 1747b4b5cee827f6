"""A ROS 2 node (Humble or later): pictures in, saliency maps and boxes of defects out.

    sudo apt install ros-$ROS_DISTRO-cv-bridge ros-$ROS_DISTRO-vision-msgs
    python3 examples/ros2_node.py --ros-args -r image:=/camera/image_raw -p engine:=minet -p threshold:=0.5

`sdi` must be installed where ROS' Python finds it, e.g. in a virtual environment that was made with
--system-site-packages. The tests have no ROS: they compile this program and look up what it imports of sdi.
"""

from __future__ import annotations

import rclpy
from cv_bridge import CvBridge
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose

from sdi.runtime import Region, default_engine, find_regions, open_engine


class SaliencyNode(Node):
    """Subscribes to `image`; publishes `saliency` (mono8, probability x 255) and `defects`, with the image's header."""

    def __init__(self) -> None:
        super().__init__("sdi")
        self._threshold = self.declare_parameter("threshold", 0.5).value
        self._min_area = self.declare_parameter("min_area", 16).value
        self._engine = open_engine(self.declare_parameter("engine", str(default_engine())).value)
        self._engine.self_test()
        self._bridge = CvBridge()
        self._maps = self.create_publisher(Image, "saliency", qos_profile_sensor_data)
        self._defects = self.create_publisher(Detection2DArray, "defects", 10)
        # With a depth of 1 the newest picture alone waits while the engine is busy.
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.create_subscription(Image, "image", self._on_image, newest)
        self.get_logger().info(f"{self._engine.path.name} on {self._engine.device}")

    def _on_image(self, message: Image) -> None:
        saliency = self._engine(self._bridge.imgmsg_to_cv2(message, desired_encoding="bgr8"))
        answer = self._bridge.cv2_to_imgmsg(saliency, encoding="mono8")
        answer.header = message.header
        self._maps.publish(answer)
        regions = find_regions(saliency, self._threshold, self._min_area)
        found = Detection2DArray(header=message.header)
        found.detections = [self._detection(message, region) for region in regions]
        self._defects.publish(found)

    def _detection(self, message: Image, region: Region) -> Detection2D:
        detection = Detection2D(header=message.header)
        detection.bbox.center.position.x = region.x + region.width / 2
        detection.bbox.center.position.y = region.y + region.height / 2
        detection.bbox.size_x = float(region.width)
        detection.bbox.size_y = float(region.height)
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id = "defect"
        hypothesis.hypothesis.score = region.peak
        detection.results = [hypothesis]
        return detection

    def destroy_node(self) -> None:
        self._engine.close()
        super().destroy_node()


def main() -> None:
    rclpy.init()
    node = SaliencyNode()
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
