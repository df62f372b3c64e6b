"""The baseline of P10: the net of the seed in Keras. Argument: the folder of MNIST's four gzipped IDX files. Prints seconds and accuracy."""
import gzip
import json
import os
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy
import tensorflow as tf


def read_idx(name):
    with gzip.open(os.path.join(sys.argv[1], name), "rb") as file:
        data = file.read()
    dims = [int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(data[3])]
    return numpy.frombuffer(data, numpy.uint8, offset=4 + 4 * len(dims)).reshape(dims)


class Clock(tf.keras.callbacks.Callback):
    """Seconds of the epochs, as the trainer beside it counts them."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.started = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(time.perf_counter() - self.started)


images = read_idx("train-images-idx3-ubyte.gz") / numpy.float32(255)
labels = read_idx("train-labels-idx1-ubyte.gz")
test_images = read_idx("t10k-images-idx3-ubyte.gz") / numpy.float32(255)
test_labels = read_idx("t10k-labels-idx1-ubyte.gz")

tf.keras.utils.set_random_seed(1)
model = tf.keras.Sequential(
    [
        tf.keras.Input((28, 28)),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(128, activation="relu"),
        tf.keras.layers.Dropout(0.2),
        tf.keras.layers.Dense(10, activation="softmax"),
    ]
)
model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
clock = Clock()
model.fit(images, labels, epochs=5, batch_size=32, verbose=0, callbacks=[clock])
_, accuracy = model.evaluate(test_images, test_labels, verbose=0)
print(json.dumps({"seconds": sum(clock.epochs), "accuracy": accuracy}))
