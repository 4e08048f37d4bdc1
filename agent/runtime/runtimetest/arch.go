package runtimetest

import goruntime "runtime"

const goarch = goruntime.GOARCH
