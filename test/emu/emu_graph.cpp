/* emu_graph.cpp - graphs of kernel nodes, built explicitly. An instantiated graph is a copy; a launched one is kept until it has run. */
#include "emu_driver.h"

using namespace kvi_emu;

struct kvi_cu_graph_t {
    node_list nodes;
    std::deque<uint32_t> handles; /* a node's handle is the address of its number here */
};
struct kvi_cu_graph_exec_t {
    std::shared_ptr<const node_list> nodes;
};

namespace kvi_emu
{
kvi_cu_result node_make(const char *call, node *out, kvi_cu_function function, dim3 grid, dim3 threads,
                        uint32_t shared_bytes, void **params, void **extra);
}

KVRT_EMU_API kvi_cu_result cuGraphCreate(kvi_cu_graph *graph, unsigned int flags)
{
    KVRT_EMU_ENTER(true);
    if (flags) return misuse(KVI_CU_INVALID_VALUE, "cuGraphCreate: flags %u, must be 0", flags);
    *graph = new kvi_cu_graph_t;
    driver().graphs.insert(*graph);
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuGraphDestroy(kvi_cu_graph graph)
{
    entry guard(__func__);
    state &d = driver();
    if (guard.result != KVI_CU_SUCCESS && !d.lost) return guard.result;
    if (!d.graphs.erase(graph)) return misuse(KVI_CU_INVALID_HANDLE, "cuGraphDestroy: not a live graph");
    delete graph;
    return d.lost;
}
static bool find_node(const kvi_cu_graph graph, kvi_cu_node handle, size_t *index)
{
    for (size_t i = 0; i < graph->handles.size(); i++)
        if (reinterpret_cast<kvi_cu_node>(&graph->handles[i]) == handle) return *index = i, true;
    return false;
}
KVRT_EMU_API kvi_cu_result cuGraphAddKernelNode_v2(kvi_cu_node *out, kvi_cu_graph graph, const kvi_cu_node *after,
                                                   size_t n_after, const kvi_cu_kernel_node *launch)
{
    KVRT_EMU_ENTER(true);
    if (!driver().graphs.count(graph)) return misuse(KVI_CU_INVALID_HANDLE, "%s: not a live graph", __func__);
    node n;
    kvi_cu_function function = launch->function ? launch->function : reinterpret_cast<kvi_cu_function>(launch->kernel);
    kvi_cu_result result = node_make(__func__, &n, function, dim3(launch->grid_x, launch->grid_y, launch->grid_z),
                                     dim3(launch->block_x, launch->block_y, launch->block_z), launch->shared_bytes,
                                     launch->params, launch->extra);
    if (result != KVI_CU_SUCCESS) return result;
    for (size_t i = 0; i < n_after; i++) {
        size_t index = 0;
        if (!find_node(graph, after[i], &index))
            return misuse(KVI_CU_INVALID_VALUE, "%s: dependency %zu is no node of this graph", __func__, i);
        for (size_t known : n.after)
            if (known == index) return misuse(KVI_CU_INVALID_VALUE, "%s: dependency %zu is given twice", __func__, i);
        n.after.push_back(index);
    }
    graph->nodes.push_back(std::move(n));
    graph->handles.push_back((uint32_t)graph->handles.size());
    *out = reinterpret_cast<kvi_cu_node>(&graph->handles.back());
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuGraphInstantiateWithFlags(kvi_cu_graph_exec *exec, kvi_cu_graph graph,
                                                       unsigned long long flags)
{
    KVRT_EMU_ENTER(true);
    if (!driver().graphs.count(graph)) return misuse(KVI_CU_INVALID_HANDLE, "%s: not a live graph", __func__);
    if (flags) return misuse(KVI_CU_INVALID_VALUE, "%s: flags %llu, must be 0", __func__, flags);
    *exec = new kvi_cu_graph_exec_t{std::make_shared<const node_list>(graph->nodes)};
    driver().executables.insert(*exec);
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuGraphUpload(kvi_cu_graph_exec exec, kvi_cu_stream)
{
    KVRT_EMU_ENTER(true);
    if (!driver().executables.count(exec))
        return misuse(KVI_CU_INVALID_HANDLE, "%s: not a live executable graph", __func__);
    return KVI_CU_SUCCESS;
}
KVRT_EMU_API kvi_cu_result cuGraphLaunch(kvi_cu_graph_exec exec, kvi_cu_stream stream)
{
    KVRT_EMU_ENTER(true);
    if (!driver().executables.count(exec))
        return misuse(KVI_CU_INVALID_HANDLE, "%s: not a live executable graph", __func__);
    if (driver().launches.strikes()) return KVI_CU_LAUNCH_OUT_OF_RESOURCES;
    work item = {};
    item.kind = work::kernels;
    item.nodes = exec->nodes;
    return stream_enqueue(__func__, stream, std::move(item));
}
KVRT_EMU_API kvi_cu_result cuGraphExecDestroy(kvi_cu_graph_exec exec)
{
    entry guard(__func__);
    state &d = driver();
    if (guard.result != KVI_CU_SUCCESS && !d.lost) return guard.result;
    if (!d.executables.erase(exec))
        return misuse(KVI_CU_INVALID_HANDLE, "cuGraphExecDestroy: not a live executable graph");
    delete exec;
    return d.lost;
}
