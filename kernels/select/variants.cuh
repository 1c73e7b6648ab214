// The launchers of the variants, which lie in a file each.
#pragma once

#include "common/launch.cuh"

namespace salient {

constexpr int BLOCK_MAX_LEN = 16384;
constexpr int CLUSTER_MAX_LEN = 8 * BLOCK_MAX_LEN;

int select_block(const SalientSelectParams& p, SalientStream stream);
int select_cluster(const SalientSelectParams& p, SalientStream stream);
int select_grid(const SalientSelectParams& p, SalientStream stream);

}  // namespace salient
